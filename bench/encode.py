"""PostgreSQL's binary formats for vectors, built by numpy a block at a time.

A Python driver turns a list into bytes one element after the other: minutes for
a million rows of 300.  Here a whole block of rows becomes one array whose bytes
are what COPY or a binary parameter wants.
"""

from __future__ import annotations

import numpy as np

from vectors import Vectors

COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)      # no flags, no header extension
COPY_TRAILER = b"\xff\xff"
FLOAT4_OID = 700


def encode_real_array(rows: np.ndarray) -> np.ndarray:
    """float32[n][dim] to uint8[n][bytes], real[]: dimensions, flags, element type, length,
    lower bound, then length and value of every element; all big-endian 32-bit words."""
    out = np.empty((len(rows), 5 + 2 * rows.shape[1]), ">u4")
    out[:, :5] = (1, 0, FLOAT4_OID, rows.shape[1], 1)
    out[:, 5::2] = 4
    out[:, 6::2] = rows.view(np.uint32)
    return out.view(np.uint8)


def encode_vector(rows: np.ndarray) -> np.ndarray:
    """The same to pgvector's vector: two 16-bit words (dimensions, zero), values."""
    out = np.empty((len(rows), 1 + rows.shape[1]), ">u4")
    out[:, 0] = rows.shape[1] << 16
    out[:, 1:] = rows.view(np.uint32)
    return out.view(np.uint8)


def encode_halfvec(rows: np.ndarray) -> np.ndarray:
    """The same to its halfvec, whose values have 16 bits as well."""
    out = np.empty((len(rows), 2 + rows.shape[1]), ">u2")
    out[:, 0] = rows.shape[1]
    out[:, 1] = 0
    out[:, 2:] = rows.astype(np.float16).view(np.uint16)
    return out.view(np.uint8)


ENCODERS = {"real[]": encode_real_array, "vector": encode_vector, "halfvec": encode_halfvec}


def copy_stream(base: Vectors, column_type: str, buckets: np.ndarray, block_rows: int = 4096):
    """Chunks of a binary COPY of (id bigint, bucket integer, embedding)."""
    yield COPY_HEADER
    for start, rows in base.blocks(block_rows):
        values = ENCODERS[column_type](rows)
        row_type = np.dtype([
            ("columns", ">i2"),
            ("id_length", ">i4"), ("id", ">i8"),
            ("bucket_length", ">i4"), ("bucket", ">i4"),
            ("value_length", ">i4"), ("value", "u1", values.shape[1:]),
        ])
        out = np.empty(len(rows), row_type)
        out["columns"] = 3
        out["id_length"] = 8
        out["id"] = np.arange(start, start + len(rows))
        out["bucket_length"] = 4
        out["bucket"] = buckets[start:start + len(rows)]
        out["value_length"] = values.shape[1]
        out["value"] = values
        yield out.tobytes()
    yield COPY_TRAILER
