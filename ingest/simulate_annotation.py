"""The annotation, calibration and noise files of a simulated Sentinel-1 IW GRD product (IPF 3.40 layout).

Elements and their order follow the Sentinel-1 Product Specification S1-RS-MDA-52-7441 3.9. What the simulation
knows is written as it is: geometry, times, tables. The rest comes from ``simulate_placeholders``.
"""

from datetime import timedelta
from typing import Any

import numpy as np

from ingest.simulate_pass import SPEED_OF_LIGHT_M_S, Vector
from ingest.simulate_placeholders import downlink, looks, quality, raw_data, replica
from ingest.simulate_sentinel1 import SPACING_M, SWATHS, Acquisition
from ingest.simulate_xml import Listing, Series, document

_RADAR_FREQUENCY_HZ = 5.405000454334350e09
_GRID_LINES, _GRID_PIXELS = 10, 21
_EVERY_S = 1.0


def annotation(of: Acquisition, polarisation: str, image_number: int, mean_dn: float, std_dn: float) -> bytes:
    """Write the product annotation of one polarisation."""
    statistics = {
        "outputDataMean": {"re": f"{mean_dn:.6e}", "im": "0.000000e+00"},
        "outputDataStdDev": {"re": f"{std_dn:.6e}", "im": "0.000000e+00"},
    }
    return document(
        "product",
        {
            "adsHeader": _header(of, polarisation, image_number),
            "qualityInformation": quality(of, statistics),
            "generalAnnotation": _general(of),
            "imageAnnotation": {"imageInformation": _image(of, statistics), "processingInformation": _processing(of)},
            "dopplerCentroid": {"dcEstimateList": Listing("dcEstimate", tuple(_doppler(of)))},
            "antennaPattern": {"antennaPatternList": Listing("antennaPattern", tuple(_antenna(of)))},
            "swathTiming": {"linesPerBurst": 0, "samplesPerBurst": 0, "burstList": Listing("burst", ())},
            "geolocationGrid": {"geolocationGridPointList": Listing("geolocationGridPoint", tuple(_grid(of)))},
            "coordinateConversion": {
                "coordinateConversionList": Listing("coordinateConversion", tuple(_conversions(of)))
            },
            "swathMerging": {"swathMergeList": Listing("swathMerge", tuple(_merging(of)))},
        },
    )


def calibration(of: Acquisition, polarisation: str, image_number: int) -> bytes:
    """Write the calibration tables of one polarisation."""
    tables = of.calibration
    vectors = [
        {
            "azimuthTime": of.at_line(int(line)),
            "line": int(line),
            "pixel": Series(of.pixels),
            **{name: Series(table.values[i]) for name, table in tables.items()},
        }
        for i, line in enumerate(tables["sigmaNought"].lines)
    ]
    return document(
        "calibration",
        {
            "adsHeader": _header(of, polarisation, image_number),
            "calibrationInformation": {"absoluteCalibrationConstant": "1.000000e+00"},
            "calibrationVectorList": Listing("calibrationVector", tuple(vectors)),
        },
    )


def noise(of: Acquisition, polarisation: str, image_number: int) -> bytes:
    """Write the noise tables of one polarisation: range vectors, and azimuth blocks per sub-swath."""
    table = of.noise_range(polarisation)
    vectors = [
        {
            "azimuthTime": of.at_line(int(line)),
            "line": int(line),
            "pixel": Series(table.pixels),
            "noiseRangeLut": Series(values),
        }
        for line, values in zip(table.lines, table.values, strict=True)
    ]
    blocks = [
        {
            "swath": block.swath,
            "firstAzimuthLine": 0,
            "firstRangeSample": block.first_sample,
            "lastAzimuthLine": of.grid.rows - 1,
            "lastRangeSample": block.last_sample,
            "line": Series(block.lines),
            "noiseAzimuthLut": Series(block.factors),
        }
        for block in of.noise_azimuth()
    ]
    return document(
        "noise",
        {
            "adsHeader": _header(of, polarisation, image_number),
            "noiseRangeVectorList": Listing("noiseRangeVector", tuple(vectors)),
            "noiseAzimuthVectorList": Listing("noiseAzimuthVector", tuple(blocks)),
        },
    )


def ground_points(of: Acquisition) -> tuple[Vector, Vector]:
    """Give line and pixel of the geolocation grid's points, line by line, (210,) each."""
    lines = np.rint(np.linspace(0, of.grid.rows - 1, _GRID_LINES))
    pixels = np.rint(np.linspace(0, of.grid.cols - 1, _GRID_PIXELS))
    line, pixel = np.meshgrid(lines, pixels, indexing="ij")
    return line.ravel(), pixel.ravel()


def _header(of: Acquisition, polarisation: str, image_number: int) -> dict[str, Any]:
    return {
        "missionId": of.mission,
        "productType": "GRD",
        "polarisation": polarisation,
        "mode": "IW",
        "swath": "IW",
        "startTime": of.start,
        "stopTime": of.stop,
        "absoluteOrbitNumber": of.absolute_orbit,
        "missionDataTakeId": of.data_take,
        "imageNumber": f"{image_number:03d}",
    }


def _grid(of: Acquisition) -> list[dict[str, Any]]:
    line, pixel = ground_points(of)
    view, (lon, lat) = of.view(line, pixel), of.grid.lonlat(line, pixel)
    return [
        {
            "azimuthTime": of.at_pass(float(view.time_s[i])),
            "slantRangeTime": float(view.slant_range_time_s[i]),
            "line": int(line[i]),
            "pixel": int(pixel[i]),
            "latitude": float(lat[i]),
            "longitude": float(lon[i]),
            "height": 0.0,
            "incidenceAngle": float(view.incidence_deg[i]),
            "elevationAngle": float(view.elevation_deg[i]),
        }
        for i in range(len(line))
    ]


def _conversions(of: Acquisition) -> list[dict[str, Any]]:
    """Fit slant range as a polynomial of ground range and back, once a second."""
    cols = np.linspace(0.0, of.grid.cols - 1, 41)
    found = []
    for second in range(-2, int((of.grid.rows - 1) * of.line_interval_s) + 3):
        row = second * _EVERY_S / of.line_interval_s
        view = of.view(np.full_like(cols, row), cols)
        sr0 = float(view.slant_range_m[0])
        found.append(
            {
                "azimuthTime": of.at_line(row),
                "slantRangeTime": float(view.slant_range_time_s[0]),
                "sr0": sr0,
                "srgrCoefficients": _polynomial(view.slant_range_m - sr0, cols * SPACING_M),
                "gr0": 0.0,
                "grsrCoefficients": _polynomial(cols * SPACING_M, view.slant_range_m),
            }
        )
    return found


def _polynomial(x: Vector, y: Vector) -> Series:
    fit = np.polynomial.Polynomial.fit(x, y, 5).convert().coef
    return Series(np.pad(fit, (0, 9 - len(fit))), 15)


def _merging(of: Acquisition) -> list[dict[str, Any]]:
    return [
        {
            "swath": swath,
            "swathBoundsList": Listing(
                "swathBounds",
                (
                    {
                        "azimuthTime": of.start,
                        "firstAzimuthLine": 0,
                        "firstRangeSample": first,
                        "lastAzimuthLine": of.grid.rows - 1,
                        "lastRangeSample": last,
                    },
                ),
            ),
        }
        for swath, first, last in of.swath_samples()
    ]


def _image(of: Acquisition, statistics: dict[str, Any]) -> dict[str, Any]:
    middle = of.view(np.array([(of.grid.rows - 1) / 2]), np.array([(of.grid.cols - 1) / 2]))
    corner = of.view(np.zeros(1), np.zeros(1))
    one_slice = {"sliceNumber": 1, "sensingStartTime": of.start, "sensingStopTime": of.stop}
    return {
        "productFirstLineUtcTime": of.start,
        "productLastLineUtcTime": of.stop,
        "ascendingNodeTime": of.ascending_node,
        "anchorTime": of.start,
        "productComposition": "Individual",
        "sliceNumber": 1,
        "sliceList": Listing("slice", (one_slice,)),
        "slantRangeTime": float(corner.slant_range_time_s[0]),
        "pixelValue": "Detected",
        "outputPixels": "16 bit Unsigned Integer",
        "rangePixelSpacing": f"{SPACING_M:.6e}",
        "azimuthPixelSpacing": f"{SPACING_M:.6e}",
        "azimuthTimeInterval": of.line_interval_s,
        "azimuthFrequency": 1.0 / of.line_interval_s,
        "numberOfSamples": of.grid.cols,
        "numberOfLines": of.grid.rows,
        "zeroDopMinusAcqTime": 0.0,
        "incidenceAngleMidSwath": float(middle.incidence_deg[0]),
        "imageStatistics": statistics,
    }


def _processing(of: Acquisition) -> dict[str, Any]:
    yes = dict.fromkeys(
        ("rxVariationCorrectionApplied", "antennaElevationPatternApplied", "antennaAzimuthPatternApplied",
         "antennaAzimuthElementPatternApplied"),
        True,
    )  # fmt: skip
    return {
        "rawDataAnalysisUsed": True,
        "orbitDataFileUsed": True,
        "attitudeDataFileUsed": False,
        **yes,
        "dcMethod": "Data Analysis",
        "dcInputData": "Range Compressed",
        "rangeSpreadingLossCompensationApplied": True,
        "srgrConversionApplied": True,
        "detectionPerformed": True,
        "thermalNoiseCorrectionPerformed": False,
        "rfiMitigationPerformed": "Never",
        "rfiMitigationDomain": "TimeAndFrequency",
        "chirpSource": "Nominal",
        "pgSource": "Extracted",
        "rrfSpectrum": "Extended Tapered",
        "applicationLutId": "IW_Default",
        "swathProcParamsList": Listing("swathProcParams", tuple(looks(swath) for swath in SWATHS)),
        "inputDimensionsList": Listing(
            "inputDimensions",
            tuple(
                {
                    "azimuthTime": of.start,
                    "swath": swath,
                    "numberOfInputSamples": last - first + 1,
                    "numberOfInputLines": of.grid.rows,
                }
                for swath, first, last in of.swath_samples()
            ),
        ),
        "referenceRange": 8.0e5,
        "ellipsoidName": "WGS84",
        "ellipsoidSemiMajorAxis": 6.378137e6,
        "ellipsoidSemiMinorAxis": 6.356752314245e6,
        "bistaticDelayCorrectionApplied": True,
        "topsFilterConvention": "Only Echo Lines",
        "orbitSource": "Auxiliary",
        "attitudeSource": "Downlink",
    }


def _general(of: Acquisition) -> dict[str, Any]:
    wavelength_m = SPEED_OF_LIGHT_M_S / _RADAR_FREQUENCY_HZ
    speed_m_s = of.orbit.radius_m * of.orbit.rate_rad_s
    slant_m = float(of.view(np.zeros(1), np.zeros(1)).slant_range_m[0])
    fm_rate = {
        "azimuthTime": of.start,
        "t0": 2.0 * slant_m / SPEED_OF_LIGHT_M_S,
        "azimuthFmRatePolynomial": Series(np.array([-2.0 * speed_m_s**2 / wavelength_m / slant_m, 0.0, 0.0]), 15),
    }
    heading_deg = (of.grid.heading_deg + 180.0) % 360.0 - 180.0
    return {
        "productInformation": {
            "pass": of.direction,
            "timelinessCategory": "Fast-24h",
            "platformHeading": heading_deg,
            "projection": "Ground Range",
            "rangeSamplingRate": 6.434523812571428e07,
            "radarFrequency": _RADAR_FREQUENCY_HZ,
            "azimuthSteeringRate": 1.590368784,
        },
        "downlinkInformationList": Listing("downlinkInformation", tuple(downlink(of, s) for s in SWATHS)),
        "orbitList": Listing("orbit", tuple(_state_vectors(of))),
        "attitudeList": Listing("attitude", tuple(_attitudes(of))),
        "rawDataAnalysisList": Listing("rawDataAnalysis", (raw_data(of),)),
        "replicaInformationList": Listing("replicaInformation", tuple(replica(of, s) for s in SWATHS)),
        "noiseList": Listing("noise", ()),
        # Two at least: Orfeo ToolBox finds no entry in a list of one.
        "terrainHeightList": Listing(
            "terrainHeight", tuple({"azimuthTime": time, "value": 0.0} for time in (of.start, of.stop))
        ),
        "azimuthFmRateList": Listing("azimuthFmRate", (fm_rate, {**fm_rate, "azimuthTime": of.stop})),
    }


def _state_vectors(of: Acquisition) -> list[dict[str, Any]]:
    """Every ten seconds from a minute before the first line to a minute after the last."""
    last_s = 60.0 + (of.stop - of.start).total_seconds()
    times = [of.start + timedelta(seconds=float(s)) for s in np.arange(-60.0, last_s + 10.0, 10.0)]
    moments_s = np.array([of.of_pass(time) for time in times])
    states = zip(times, of.orbit.position(moments_s), of.orbit.velocity(moments_s), strict=True)
    return [
        {
            "time": time,
            "frame": "Earth Fixed",
            "position": dict(zip("xyz", map(float, position), strict=True)),
            "velocity": dict(zip("xyz", map(float, velocity), strict=True)),
        }
        for time, position, velocity in states
    ]


def _attitudes(of: Acquisition) -> list[dict[str, Any]]:
    level = {"q0": "1.000000e+00", "q1": "0.000000e+00", "q2": "0.000000e+00", "q3": "0.000000e+00"}
    rates = {"wx": 0.0, "wy": -of.orbit.rate_rad_s, "wz": 0.0}
    angles = {"roll": 0.0, "pitch": 0.0, "yaw": 0.0}
    return [{"time": t, "frame": "Earth Fixed", **level, **rates, **angles} for t in (of.start, of.stop)]


def _doppler(of: Acquisition) -> list[dict[str, Any]]:
    """Zero: the antenna is steered."""
    t0 = float(of.view(np.zeros(1), np.zeros(1)).slant_range_time_s[0])
    return [
        {
            "azimuthTime": time,
            "t0": t0,
            "geometryDcPolynomial": Series(np.zeros(3)),
            "dataDcPolynomial": Series(np.zeros(3)),
            "dataDcRmsError": 0.0,
            "dataDcRmsErrorAboveThreshold": False,
            "fineDceAzimuthStartTime": of.start,
            "fineDceAzimuthStopTime": of.stop,
            "fineDceList": Listing("fineDce", ({"slantRangeTime": t0, "frequency": 0.0},)),
        }
        for time in (of.start, of.stop)
    ]


def _antenna(of: Acquisition) -> list[dict[str, Any]]:
    found = []
    for swath, first, last in of.swath_samples():
        col = np.linspace(first, last, 11)
        view = of.view(np.zeros_like(col), col)
        found.append(
            {
                "swath": swath,
                "azimuthTime": of.start,
                "slantRangeTime": Series(view.slant_range_time_s, 15),
                "elevationAngle": Series(view.elevation_deg),
                # Complex numbers, real and imaginary part in turn.
                "elevationPattern": Series(np.tile([1.0, 0.0], (11, 1))),
                "incidenceAngle": Series(view.incidence_deg),
                "terrainHeight": 0.0,
                "roll": 0.0,
            }
        )
    return found
