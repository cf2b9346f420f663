"""Write numbers as the bytes of a file."""

from pathlib import Path
from tempfile import TemporaryDirectory

import xarray as xr


def as_csv(dataset: xr.Dataset) -> str:
    """Write one row per combination of coordinates. Text that a spreadsheet would run as a formula is quoted."""
    table = dataset.to_dataframe().reset_index()
    for name in table.columns:
        if table[name].dtype.kind in "OUT" or not table[name].dtype.kind:
            table[name] = [_as_text(value) for value in table[name]]
    return table.to_csv(index=False)


def as_netcdf(dataset: xr.Dataset) -> bytes:
    """Write the dataset as a netCDF4 file."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "data.nc"
        dataset.to_netcdf(path, engine="h5netcdf")
        return path.read_bytes()


def _as_text(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" and value else value
