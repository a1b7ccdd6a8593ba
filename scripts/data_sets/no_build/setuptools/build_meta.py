"""Tells pip the name and the version of a source archive from its PKG-INFO; runs no setup.py."""

from email.parser import BytesParser
from pathlib import Path


class __legacy__:
    @staticmethod
    def prepare_metadata_for_build_wheel(folder, config_settings=None):
        told = BytesParser().parsebytes(Path("PKG-INFO").read_bytes(), headersonly=True)
        info = Path(folder) / f"{told['Name']}-{told['Version']}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {told['Name']}\nVersion: {told['Version']}\n"
        )
        return info.name
