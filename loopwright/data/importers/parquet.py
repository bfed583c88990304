"""Rows of a Parquet file. What is written once and pointed at a thousand times is measured before it is unfolded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from loopwright.data.importers.items import (
    MAX_ROW_BYTES,
    Item,
    Limits,
    Source,
    check_expansion,
    check_unpacked,
    item_of,
    shown,
)
from loopwright.data.readers import damage_named
from loopwright.errors import DataError

MAX_ROW_GROUP_BYTES = 2 * 2**30  # Parquet is read by row groups
ROWS_AT_ONCE = 256
BYTES_AT_ONCE = 2**24  # more than this is unfolded row by row


@contextmanager
def open_parquet(path: Path, limits: Limits) -> Iterator[Source]:
    """
    Raises:
        DataError: it is no Parquet file, a row group is too large, it is damaged, or it expands too far;
            while reading, too.
    """
    try:
        with damage_named(path), pyarrow.parquet.ParquetFile(path, pre_buffer=False) as file:
            metadata, schema = file.metadata, file.schema_arrow
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        names = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
        # Texts stay numbers of a dictionary until their lengths are known.
        file = pyarrow.parquet.ParquetFile(path, pre_buffer=False, read_dictionary=names)
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: not a Parquet file ({error}); check that it is whole") from error
    with file:
        largest = max((_bytes_of_group(group) for group in groups), default=0)
        if largest > MAX_ROW_GROUP_BYTES:
            raise DataError(f"{path}: a row group of {largest:,} bytes; write it again with smaller row groups")
        check_unpacked(path, largest, limits)  # it is in memory before its rows are measured
        done = [0]

        def items() -> Iterator[Item]:
            try:
                for values, bytes_ in _rows(path, file, schema, limits):
                    done[0] += 1
                    if values is None:
                        yield Item(done[0], None, str, f"a row of {bytes_:,} bytes, more than {MAX_ROW_BYTES:,}")
                    else:
                        yield item_of(done[0], values, shown(values))
            except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
                raise DataError(f"{path}: cannot be read after row {done[0]} ({error}); write it again") from error

        yield Source(metadata.num_rows, lambda: done[0], items())


def _bytes_of_group(group: Any) -> int:
    """By the file's own account; eight for each number, since a run of equal ones is stored as one."""
    numbers = sum(group.column(i).num_values for i in range(group.num_columns))
    return max(group.total_byte_size, 8 * numbers)


def _rows(
    path: Path, file: pyarrow.parquet.ParquetFile, schema: pyarrow.Schema, limits: Limits
) -> Iterator[tuple[dict[str, Any] | None, int]]:
    """(row, its bytes); None for one of too many bytes.

    Raises:
        DataError: all rows together are larger than the file could honestly be, or than the limits allow.
    """
    size, given = path.stat().st_size, 0
    for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
        sizes = sum((_sizes(column) for column in batch.columns), np.zeros(len(batch), dtype=np.int64))
        given += int(sizes.sum())
        check_expansion(path, size, given, limits)
        step = len(batch) if sizes.sum() <= BYTES_AT_ONCE else 1
        for start in range(0, len(batch), step):
            part = sizes[start : start + step]
            if part.max() > MAX_ROW_BYTES:
                yield None, int(part.max())
                continue
            rows = batch.slice(start, step)
            rows = rows if rows.schema.equals(schema) else rows.cast(schema)
            yield from zip(rows.to_pylist(), map(int, part), strict=True)


def _sizes(array: pyarrow.Array) -> np.ndarray:
    """Bytes that each value has as text, about: its letters, and one for a number or a place in a list."""
    kind = array.type
    if isinstance(kind, pyarrow.BaseExtensionType):
        return _sizes(array.storage)
    if pyarrow.types.is_dictionary(kind):
        lengths = np.append(_sizes(array.dictionary), 0)  # the last one is that of null
        return lengths[array.indices.fill_null(len(lengths) - 1).to_numpy(zero_copy_only=False)]
    if pyarrow.types.is_struct(kind):
        return sum((_sizes(array.field(i)) for i in range(kind.num_fields)), np.ones(len(array), dtype=np.int64))
    if pyarrow.types.is_fixed_size_list(kind):
        width = kind.list_size
        inside = _sizes(array.values.slice(array.offset * width, len(array) * width))
        return 1 + inside.reshape(len(array), width).sum(axis=1, dtype=np.int64)
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind) or pyarrow.types.is_map(kind):
        before = np.concatenate([[0], np.cumsum(_sizes(array.values), dtype=np.int64)])
        ends = before[array.offsets.to_numpy(zero_copy_only=False)]
        return 1 + ends[1:] - ends[:-1]
    if pyarrow.types.is_nested(kind):
        raise ValueError(f"a column of {kind}")
    if pyarrow.types.is_primitive(kind) or pyarrow.types.is_null(kind) or pyarrow.types.is_decimal(kind):
        return np.ones(len(array), dtype=np.int64)
    lengths = pyarrow.compute.binary_length(array).fill_null(0)
    return lengths.to_numpy(zero_copy_only=False).astype(np.int64)
