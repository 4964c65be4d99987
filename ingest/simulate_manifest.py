"""The manifest.safe of a simulated Sentinel-1 product: what the product is, and its files with their checksums."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from ingest.simulate_sentinel1 import Acquisition
from ingest.simulate_xml import stamp

IPF_VERSION = "003.40"

_NAMESPACES = {
    "gml": "http://www.opengis.net/gml",
    "xfdu": "urn:ccsds:schema:xfdu:1",
    "safe": "http://www.esa.int/safe/sentinel-1.0",
    "s1": "http://www.esa.int/safe/sentinel-1.0/sentinel-1",
    "s1sar": "http://www.esa.int/safe/sentinel-1.0/sentinel-1/sar",
    "s1sarl1": "http://www.esa.int/safe/sentinel-1.0/sentinel-1/sar/level-1",
}
_SCHEMAS = {
    "product": "s1Level1ProductSchema",
    "noise": "s1Level1NoiseSchema",
    "calibration": "s1Level1CalibrationSchema",
    "": "s1Level1MeasurementSchema",
}


@dataclass(frozen=True, slots=True)
class Member:
    """One file of the product: its kind ("product", "noise", "calibration" or "" for pixels) and path inside it."""

    kind: str
    path: str

    @property
    def id(self) -> str:
        """The file's name without anything but letters and digits, after its kind."""
        name = Path(self.path).stem.removeprefix(f"{self.kind}-")
        return self.kind + name.replace("-", "")

    @property
    def schema(self) -> str:
        """Identifier of the file's representation."""
        return _SCHEMAS[self.kind]


def manifest(of: Acquisition, folder: Path, polarisations: Sequence[str], images: Sequence[Sequence[Member]]) -> bytes:
    """Write the manifest of files that lie in ``folder``; ``images`` holds the members of each polarisation."""
    members = [member for image in images for member in image]
    names = " ".join(f'xmlns:{prefix}="{uri}"' for prefix, uri in _NAMESPACES.items())
    dual = "dp" if len(polarisations) > 1 else "sp"
    return "\n".join(
        [
            '<?xml version="1.0" encoding="UTF-8"?>',
            f'<xfdu:XFDU {names} version="esa/safe/sentinel-1.0/sentinel-1/sar/level-1/grd/standard/iw{dual}">',
            _package(images),
            "  <metadataSection>",
            *(_description(member) for member in members if member.kind),
            _processing(of),
            _platform(of),
            _orbit(of),
            _general(of, polarisations),
            _period(of),
            _frame(of),
            "  </metadataSection>",
            "  <dataObjectSection>",
            *(_file(member, folder) for member in members),
            "  </dataObjectSection>",
            "</xfdu:XFDU>",
            "",
        ]
    ).encode()


def _package(images: Sequence[Sequence[Member]]) -> str:
    units = []
    for image in images:
        described = " ".join(f"{member.id}Annotation" for member in image if member.kind)
        for member in image:
            kind = "Metadata Unit" if member.kind else "Measurement Data Unit"
            about = "" if member.kind else f' dmdID="{described}"'
            units.append(
                f'      <xfdu:contentUnit unitType="{kind}" repID="{member.schema}"{about}>'
                f'<dataObjectPointer dataObjectID="{member.id}"/></xfdu:contentUnit>'
            )
    return "\n".join(
        [
            "  <informationPackageMap>",
            '    <xfdu:contentUnit unitType="SAFE Archive Information Package"'
            ' textInfo="Sentinel-1 IW Level-1 GRD Product"'
            ' dmdID="acquisitionPeriod platform generalProductInformation measurementOrbitReference'
            ' measurementFrameSet" pdiID="processing">',
            *units,
            "    </xfdu:contentUnit>",
            "  </informationPackageMap>",
        ]
    )


def _description(member: Member) -> str:
    return (
        f'    <metadataObject ID="{member.id}Annotation" classification="DESCRIPTION" category="DMD">'
        f'<dataObjectPointer dataObjectID="{member.id}"/></metadataObject>'
    )


def _metadata(name: str, title: str, body: str, classification: str = "DESCRIPTION", category: str = "DMD") -> str:
    return (
        f'    <metadataObject ID="{name}" classification="{classification}" category="{category}">\n'
        f'      <metadataWrap mimeType="text/xml" vocabularyName="SAFE" textInfo="{title}">\n'
        f"        <xmlData>\n{body}\n        </xmlData>\n      </metadataWrap>\n    </metadataObject>"
    )


def _processing(of: Acquisition) -> str:
    body = f"""          <safe:processing name="GRD Post Processing" start="{stamp(of.start)}" stop="{stamp(of.stop)}">
            <safe:facility country="none" name="SARSense simulation" organisation="SARSense" site="no real acquisition">
              <safe:software name="Sentinel-1 IPF" version="{IPF_VERSION}"/>
            </safe:facility>
          </safe:processing>"""
    return _metadata("processing", "Processing", body, "PROVENANCE", "PDI")


def _platform(of: Acquisition) -> str:
    identifier = {"S1A": "2014-016A", "S1B": "2016-025A"}[of.mission]
    body = f"""          <safe:platform>
            <safe:nssdcIdentifier>{identifier}</safe:nssdcIdentifier>
            <safe:familyName>SENTINEL-1</safe:familyName>
            <safe:number>{of.mission[-1]}</safe:number>
            <safe:instrument>
              <safe:familyName abbreviation="SAR">Synthetic Aperture Radar</safe:familyName>
              <safe:extension>
                <s1sarl1:instrumentMode>
                  <s1sarl1:mode>IW</s1sarl1:mode>
                  <s1sarl1:swath>IW</s1sarl1:swath>
                </s1sarl1:instrumentMode>
              </safe:extension>
            </safe:instrument>
          </safe:platform>"""
    return _metadata("platform", "Platform Description", body)


def _orbit(of: Acquisition) -> str:
    body = f"""          <safe:orbitReference>
            <safe:orbitNumber type="start">{of.absolute_orbit}</safe:orbitNumber>
            <safe:orbitNumber type="stop">{of.absolute_orbit}</safe:orbitNumber>
            <safe:relativeOrbitNumber type="start">{of.relative_orbit}</safe:relativeOrbitNumber>
            <safe:relativeOrbitNumber type="stop">{of.relative_orbit}</safe:relativeOrbitNumber>
            <safe:cycleNumber>{of.absolute_orbit // 175 + 1}</safe:cycleNumber>
            <safe:phaseIdentifier>1</safe:phaseIdentifier>
            <safe:extension>
              <s1:orbitProperties>
                <s1:pass>{of.direction.upper()}</s1:pass>
                <s1:ascendingNodeTime>{stamp(of.ascending_node)}</s1:ascendingNodeTime>
              </s1:orbitProperties>
            </safe:extension>
          </safe:orbitReference>"""
    return _metadata("measurementOrbitReference", "Orbit Reference", body)


def _general(of: Acquisition, polarisations: Sequence[str]) -> str:
    name = "s1sarl1:transmitterReceiverPolarisation"
    received = "\n".join(f"            <{name}>{polarisation}</{name}>" for polarisation in polarisations)
    body = f"""          <s1sarl1:standAloneProductInformation>
            <s1sarl1:instrumentConfigurationID>1</s1sarl1:instrumentConfigurationID>
            <s1sarl1:missionDataTakeID>{of.data_take}</s1sarl1:missionDataTakeID>
{received}
            <s1sarl1:productClass>S</s1sarl1:productClass>
            <s1sarl1:productClassDescription>SAR Standard L1 Product</s1sarl1:productClassDescription>
            <s1sarl1:productComposition>Individual</s1sarl1:productComposition>
            <s1sarl1:productType>GRD</s1sarl1:productType>
            <s1sarl1:productTimelinessCategory>Fast-24h</s1sarl1:productTimelinessCategory>
            <s1sarl1:sliceProductFlag>false</s1sarl1:sliceProductFlag>
          </s1sarl1:standAloneProductInformation>"""
    return _metadata("generalProductInformation", "General Product Information", body)


def _period(of: Acquisition) -> str:
    def since_node(time: datetime) -> str:
        return f"{(time - of.ascending_node).total_seconds() * 1000.0:.6e}"

    body = f"""          <safe:acquisitionPeriod>
            <safe:startTime>{stamp(of.start)}</safe:startTime>
            <safe:stopTime>{stamp(of.stop)}</safe:stopTime>
            <safe:extension>
              <s1:timeANX>
                <s1:startTimeANX>{since_node(of.start)}</s1:startTimeANX>
                <s1:stopTimeANX>{since_node(of.stop)}</s1:stopTimeANX>
              </s1:timeANX>
            </safe:extension>
          </safe:acquisitionPeriod>"""
    return _metadata("acquisitionPeriod", "Acquisition Period", body)


def _frame(of: Acquisition) -> str:
    """Write the corners in the order of real products: last line near and far, first line far and near."""
    last_row, last_col = of.grid.rows - 1.0, of.grid.cols - 1.0
    lon, lat = of.grid.lonlat(np.array([last_row, last_row, 0.0, 0.0]), np.array([0.0, last_col, last_col, 0.0]))
    corners = " ".join(f"{y:.6f},{x:.6f}" for x, y in zip(lon, lat, strict=True))
    body = f"""          <safe:frameSet>
            <safe:frame>
              <safe:footPrint srsName="http://www.opengis.net/gml/srs/epsg.xml#4326">
                <gml:coordinates>{corners}</gml:coordinates>
              </safe:footPrint>
            </safe:frame>
          </safe:frameSet>"""
    return _metadata("measurementFrameSet", "Frame Set", body)


def _file(member: Member, folder: Path) -> str:
    path = folder / member.path
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    mime = "text/xml" if member.kind else "application/octet-stream"
    return (
        f'    <dataObject ID="{member.id}" repID="{member.schema}">\n'
        f'      <byteStream mimeType="{mime}" size="{path.stat().st_size}">\n'
        f'        <fileLocation locatorType="URL" href="./{member.path}"/>\n'
        f'        <checksum checksumName="MD5">{checksum}</checksum>\n'
        "      </byteStream>\n    </dataObject>"
    )
