"""CMR's granule search on the loopback, as far as asf_search uses it: TLS, form bodies, UMM-G JSON, paging by header.

Real are asf_search, the TLS connection, and the requests that it sends; the granules are written here with the fields
that asf_search documents for UMM-G (`ASFProduct._base_properties`, `S1Product._base_properties`). NASA's server cannot
be reached, so what it answers beyond these fields is not tested.
"""

import datetime as dt
import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from stac_server import serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


@dataclass
class AsfServer:
    granules: list[dict[str, Any]]
    host: str = ""
    certificate: str = ""
    asked: list[list[tuple[str, str]]] = field(default_factory=list)
    faults: list[int] = field(default_factory=list)

    async def search(self, request: Request) -> JSONResponse:
        body = parse_qsl((await request.body()).decode())
        self.asked.append(body)
        if self.faults:
            return JSONResponse({"errors": ["busy"]}, self.faults.pop(0))
        found = [granule for granule in self.granules if _meets(granule["umm"], body)]
        size = int(dict(body)["page_size"])
        start = int(request.headers.get("CMR-Search-After") or 0)
        page = found[start : start + size]
        after = {"CMR-Search-After": str(start + size)} if start + size < len(found) and size else {}
        return JSONResponse({"hits": len(found), "took": 1, "items": page}, headers=after)


def granule(
    name: str,
    level: str,
    polarisation: str,
    start: str,
    processed: str,
    *,
    orbit: str = "ASCENDING",
    lon: float = 9.0,
    lat: float = 45.0,
) -> dict[str, Any]:
    """A Sentinel-1 granule in UMM-G."""
    corners = [(lon, lat), (lon + 2, lat), (lon + 2, lat + 1), (lon, lat + 1), (lon, lat)]
    attributes = {
        "ASCENDING_DESCENDING": orbit,
        "PATH_NUMBER": "15",
        "PROCESSING_TYPE": level,
        "POLARIZATION": polarisation,
        "BEAM_MODE": name[4:6],
        "BEAM_MODE_TYPE": name[4:6],
        "ASF_PLATFORM": f"Sentinel-1{name[2]}",
        "BYTES": "1023456789.0",
        "FRAME_NUMBER": "146",
        "GROUP_ID": "S1A_IWDV_0146_0151_026545_015",
        "MD5SUM": "0" * 32,
    }
    kind = "SLC" if level == "SLC" else f"{'DP' if '+' in polarisation else 'SP'}_GRD_HIGH"
    url = f"https://datapool.asf.alaska.edu/{level}/SA/{name}.zip"
    umm = {
        "GranuleUR": f"{name}-{level}",
        "CollectionReference": {"ShortName": f"SENTINEL-1{name[2]}_{kind}"},
        "Platforms": [{"ShortName": f"Sentinel-1{name[2]}", "Instruments": [{"ShortName": "C-SAR"}]}],
        "TemporalExtent": {"RangeDateTime": {"BeginningDateTime": start, "EndingDateTime": start[:-3] + "59Z"}},
        "DataGranule": {
            "Identifiers": [{"IdentifierType": "ProducerGranuleId", "Identifier": name}],
            "ProductionDateTime": processed,
        },
        "OrbitCalculatedSpatialDomains": [{"OrbitNumber": int(name[49:55])}],
        "AdditionalAttributes": [{"Name": key, "Values": [value]} for key, value in attributes.items()],
        "SpatialExtent": {
            "HorizontalSpatialDomain": {
                "Geometry": {
                    "GPolygons": [{"Boundary": {"Points": [{"Longitude": x, "Latitude": y} for x, y in corners]}}]
                }
            }
        },
        "RelatedUrls": [{"URL": f"{url}?X-Amz-Signature=canary", "Type": "GET DATA"}],
        "PGEVersionClass": {"PGEVersion": "003.40"},
    }
    return {"meta": {"concept-id": "G1-ASF", "collection-concept-id": "C1-ASF"}, "umm": umm}


def _meets(umm: dict[str, Any], body: list[tuple[str, str]]) -> bool:
    attributes = {one["Name"]: one["Values"] for one in umm["AdditionalAttributes"]}
    for key, value in body:
        if key == "attribute[]":
            _, name, wanted = value.split(",", 2)
            if wanted not in attributes[name]:
                return False
        if key == "temporal":
            start, end = value.split(",")[:2]
            if not start <= umm["TemporalExtent"]["RangeDateTime"]["BeginningDateTime"] <= end:
                return False
        if key == "bounding_box":
            points = umm["SpatialExtent"]["HorizontalSpatialDomain"]["Geometry"]["GPolygons"][0]["Boundary"]["Points"]
            west, south, east, north = map(float, value.split(","))
            x, y = [p["Longitude"] for p in points], [p["Latitude"] for p in points]
            if min(x) > east or max(x) < west or min(y) > north or max(y) < south:
                return False
    names = [value for key, value in body if key == "shortName"]
    return not names or umm["CollectionReference"]["ShortName"] in names


@contextmanager
def asf_server(folder: Path, granules: list[dict[str, Any]]) -> Iterator[AsfServer]:
    server = AsfServer(granules)
    key, certificate = _certificate(folder)
    app = Starlette(routes=[Route("/search/granules.umm_json", server.search, methods=["POST"])])
    with serving(app, ssl_keyfile=str(key), ssl_certfile=str(certificate)) as port:
        server.host, server.certificate = f"127.0.0.1:{port}", str(certificate)
        yield server


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A key and a certificate for 127.0.0.1 that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "key.pem", folder / "certificate.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    paths[0].write_bytes(secret)
    paths[1].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return paths
