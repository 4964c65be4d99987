"""Parts of a Sentinel-1 annotation that the simulation has no model of: one plain, schema-valid entry each."""

from typing import Any

import numpy as np

from ingest.simulate_sentinel1 import SWATHS, Acquisition
from ingest.simulate_xml import Listing, Series


def looks(swath: str) -> dict[str, Any]:
    """Give the bandwidths and looks of one sub-swath."""

    def side(total_hz: float, look_hz: float, looks: int, overlap_hz: float) -> dict[str, Any]:
        return {
            "windowType": "Hamming",
            "windowCoefficient": 0.7,
            "totalBandwidth": total_hz,
            "processingBandwidth": total_hz,
            "lookBandwidth": look_hz,
            "numberOfLooks": looks,
            "lookOverlap": overlap_hz,
        }

    return {
        "swath": swath,
        "rangeProcessing": side(5.65e7, 1.41e7, 5, 3.5e6),
        "azimuthProcessing": side(327.0, 327.0, 1, 0.0),
        "processorScalingFactor": "1.000000e+12",
    }


def downlink(of: Acquisition, swath: str) -> dict[str, Any]:
    """Give one downlink entry without errors."""
    one = ({"azimuthTime": of.start, "value": 3.7e-4},)
    return {
        "swath": swath,
        "azimuthTime": of.start,
        "firstLineSensingTime": of.start,
        "lastLineSensingTime": of.stop,
        "prf": 1717.128973878037,
        "bitErrorCount": dict.fromkeys([*(f"numErr{what}" for what in _ERROR_COUNTS), "numIspHeaderErrors"], 0),
        "downlinkValues": {
            "pri": 1.0 / 1717.128973878037,
            "rank": 9,
            "dataTakeId": of.data_take & 0xFFFF,
            "eccNumber": 8,
            "rxChannelId": 0,
            "instrumentConfigId": 1,
            "dataFormat": {
                "baqBlockLength": 256,
                "echoFormat": "FDBAQ",
                "noiseFormat": "BAQ 5 Bit",
                "calibrationFormat": "Decimation",
                "meanBitRate": 1.2,
            },
            "rangeDecimation": {
                "decimationFilterBandwidth": 5.659e7,
                "samplingFrequencyAfterDecimation": 6.434523812571429e07,
                "filterLength": 36,
            },
            "rxGain": -4.0,
            "txPulseLength": 5.24e-5,
            "txPulseStartFrequency": -2.825e7,
            "txPulseRampRate": 1.078e12,
            "swathNumber": 10 + SWATHS.index(swath),
            "swlList": Listing("swl", one),
            "swstList": Listing("swst", one),
            "pointingStatusList": Listing("pointingStatus", ()),
        },
    }


# fmt: off
_ERROR_COUNTS = (
    "SyncMarker", "DataTakeId", "EccNumber", "TestMode", "RxChannelId", "InstrumentConfigId", "PacketCount",
    "PriCount", "SsbErrorFlag", "BaqMode", "BaqBlockLength", "RangeDecimation", "RxGain", "TxRampRate",
    "TxPulseStartFrequency", "Rank", "Pri", "Swst", "Swl", "Polarisation", "TempComp", "ElevationBeamAddress",
    "AzimuthBeamAddress", "SasTestMode", "CalType", "CalibrationBeamAddress", "CalMode", "TxPulseNumber",
    "SignalType", "SwapFlag", "SwathNumber", "NumberOfQuads",
)
# fmt: on


def replica(of: Acquisition, swath: str) -> dict[str, Any]:
    """Give one nominal replica."""
    return {
        "swath": swath,
        "referenceReplica": {
            "azimuthTime": of.start,
            "chirpSource": "Nominal",
            "pgSource": "Extracted",
            "amplitudeCoefficients": Series(np.array([1.0, 0.0, 0.0, 0.0])),
            "phaseCoefficients": Series(np.array([0.0, 693.5, 5.39e11, 0.0])),
            "timeDelay": "0.000000e+00",
            "gain": {"re": "1.000000e+00", "im": "0.000000e+00"},
        },
        "replicaList": Listing("replica", ()),
    }


def raw_data(of: Acquisition) -> dict[str, Any]:
    """Give one analysis of raw data without bias."""
    bounds = ("iBias", "qBias", "iqGain", "iqQuadratureDeparture")
    used = ("iBias", "qBias", "iqGainImbalance", "iqQuadratureDeparture")
    return {
        "azimuthTime": of.start,
        "iBias": 0.0,
        "qBias": 0.0,
        "iqQuadratureDeparture": 0.0,
        "iqGainImbalance": 1.0,
        "support": {
            **{f"{name}{end}Bound": 0.0 for name in bounds for end in ("Upper", "Lower")},
            **{f"{name}UsedForCorrection": float(name == "iqGainImbalance") for name in used},
        },
    }


def quality(of: Acquisition, statistics: dict[str, Any]) -> dict[str, Any]:
    """Give one quality entry without gaps; ``statistics`` are those of the image."""
    gaps: dict[str, Any] = {}
    for what, flag in (
        ("DownlinkInputDataGaps", "downlinkGapsInInputData"),
        ("DownlinkInputMissingLines", "downlinkMissingLines"),
        ("InstrumentInputDataGaps", "instrumentGapsInInputData"),
        ("InstrumentInputMissingLines", "instrumentMissingLines"),
        ("SsbErrorInputDataGaps", "ssbErrorGapsInInputData"),
        ("SsbErrorInputMissingLines", "ssbErrorMissingLines"),
    ):
        gaps |= {f"num{what}": 0, f"{flag}SignificantFlag": False}
    one = {
        "azimuthTime": of.start,
        "downlinkQuality": {
            "iInputDataMean": 0.0,
            "qInputDataMean": 0.0,
            "inputDataMeanOutsideNominalRangeFlag": False,
            "iInputDataStdDev": 9.0,
            "qInputDataStdDev": 9.0,
            "inputDataStDevOutsideNominalRangeFlag": False,
            **gaps,
            "chirpSourceUsed": "Nominal",
            "pgSourceUsed": "Extracted",
            "rrfSpectrumUsed": "Extended Tapered",
            "replicaReconstructionFailedFlag": False,
            "meanPgProductAmplitude": 1.0,
            "stdDevPgProductAmplitude": 0.0,
            "meanPgProductPhase": 0.0,
            "stdDevPgProductPhase": 0.0,
            "pgProductDerivationFailedFlag": False,
            "invalidDownlinkParamsFlag": False,
        },
        "rawDataAnalysisQuality": {
            "iBias": 0.0,
            "iBiasSignificanceFlag": False,
            "qBias": 0.0,
            "qBiasSignificanceFlag": False,
            "iqGainImbalance": 1.0,
            "iqGainSignificanceFlag": False,
            "iqQuadratureDeparture": 0.0,
            "iqQuadratureDepartureSignificanceFlag": False,
        },
        "dopplerCentroidQuality": {"dcMethod": "Data Analysis", "dopplerCentroidUncertainFlag": False},
        "imageQuality": {
            "imageStatistics": statistics,
            "outputDataMeanOutsideNominalRangeFlag": False,
            "outputDataStDevOutsideNominalRangeFlag": False,
        },
    }
    return {"productQualityIndex": 0.0, "qualityDataList": Listing("qualityData", (one,))}
