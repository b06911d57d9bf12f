"""The framing of TFRecord files: where each record begins, and whether it is whole.

```
uint64  length            little-endian
uint32  masked crc32c of the 8 bytes of length
byte    data[length]
uint32  masked crc32c of data
```
Source: "TFRecord and tf.train.Example", https://www.tensorflow.org/tutorials/load_data/tfrecord; CRC-32C: RFC 3720,
appendix B.4. TensorFlow's own reader tells the offset of a damaged record but not the file, and takes a file that ends
inside a record's header for a whole one.
"""

import dataclasses
import io
import mmap
import re
import struct
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
import tensorflow as tf

from kopt.core.errors import DataError
from kopt.data.splits import Array

COMPRESSIONS = ("", "GZIP", "ZLIB")
_HEADER = struct.Struct("<QI")
_FRAME_BYTES = _HEADER.size + 4
_POLYNOMIAL = 0x82F63B78  # of CRC-32C, bits reversed
_MASK_DELTA = 0xA282EAD8
_CHUNK = 1 << 16
_RECORDS = 1 << 10


@dataclasses.dataclass(frozen=True)
class Framing:
    """What a walk over the headers of a file found.

    Attributes:
        lengths: bytes of data of each whole record.
        damage: what is wrong, in words that begin with the offset, or `""`.
    """

    lengths: Array
    damage: str


def masked_crc32c(data: Any) -> Any:
    """Return the masked CRC-32C of each row of uint8 `data`, shape (n, width), as uint32 of shape (n,).

    mask(c) = rotate_right(c, 15) + 0xa282ead8 modulo 2^32.
    """
    data = np.atleast_2d(np.asarray(data, np.uint8))
    crc = np.full(len(data), 0xFFFFFFFF, np.uint32)
    for column in data.T:
        crc = _TABLE[(crc ^ column) & 0xFF] ^ (crc >> np.uint32(8))
    crc = ~crc
    return ((crc >> np.uint32(15)) | (crc << np.uint32(17))) + np.uint32(_MASK_DELTA)


def walk(file: Path, compression: str) -> Framing:
    """Return the records of a file by its headers alone; the data is not read, of a compressed file only unpacked."""
    if compression:
        with open(file, "rb") as raw:
            source = _Inflating(raw)
            return _walk_stream(io.BufferedReader(source, _CHUNK), source)
    if file.stat().st_size == 0:
        return Framing(np.zeros(0, np.uint64), "")
    with open(file, "rb") as raw, mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as view:
        return _walk_view(view)


def first_record(file: Path, compression: str) -> bytes | None:
    """Return the data of the first record, `None` of an empty file.

    Raises:
        DataError: the file does not begin with a record, as it is or after unpacking.
    """
    with open(file, "rb") as raw:
        source = _Inflating(raw) if compression else None
        stream: IO[bytes] = io.BufferedReader(source, _CHUNK) if source else raw
        head = stream.read(_HEADER.size)
        if not head and not (source and source.damage):
            return None
        if len(head) < _HEADER.size or not _is_sound(head):
            how = f"unpacked as {compression}" if compression else "not compressed"
            raise DataError(
                f"{file}, {how}, does not begin with a TFRecord. Check `compression` (`'auto'` tells by the file), and "
                f"that it is no other kind of file."
            )
        return stream.read(_HEADER.unpack(head)[0])


def detect_compression(file: Path) -> str:
    """Return `""`, `"GZIP"` or `"ZLIB"` by the first bytes of a file."""
    with open(file, "rb") as raw:
        head = raw.read(_HEADER.size)
    if len(head) == _HEADER.size and _is_sound(head):
        return ""
    if head[:2] == b"\x1f\x8b":
        return "GZIP"
    # RFC 1950: method 8 (deflate) with a window of at most 32 KB, and the two bytes a multiple of 31.
    is_zlib = len(head) >= 2 and head[0] & 0x0F == 8 and head[0] >> 4 <= 7 and (head[0] << 8 | head[1]) % 31 == 0
    return "ZLIB" if is_zlib else ""


def damaged_data(file: Path, compression: str) -> str:
    """Return where the data of a file whose headers are sound does not fit its checksum, in words, or `""`.

    Reads the whole file, in TensorFlow's reader.
    """
    try:
        for _ in tf.data.TFRecordDataset(str(file), compression).batch(_RECORDS):
            pass
    except tf.errors.DataLossError as error:
        found = re.search(r"corrupted record at (\d+)", error.message)
        if found is None:
            return error.message
        # TensorFlow counts to the data, behind the header.
        return f"offset {int(found[1]) - _HEADER.size}: the checksum of its data is wrong"
    return ""


def _table() -> Array:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> np.uint32(1)) ^ np.uint32(_POLYNOMIAL), table >> np.uint32(1))
    return table


_TABLE = _table()


def _is_sound(header: bytes) -> bool:
    crc = _HEADER.unpack(header)[1]
    return int(masked_crc32c(np.frombuffer(header[:8], np.uint8))[0]) == crc


def _walk_view(view: Any) -> Framing:
    size, offset, headers = len(view), 0, bytearray()
    while offset + _HEADER.size <= size:
        header = view[offset : offset + _HEADER.size]
        headers += header
        offset += _FRAME_BYTES + _HEADER.unpack(header)[0]
    return _judge(headers, size)


def _walk_stream(stream: IO[bytes], source: "_Inflating") -> Framing:
    headers = bytearray()
    while len(header := stream.read(_HEADER.size)) == _HEADER.size:
        headers += header
        _skip(stream, _HEADER.unpack(header)[0] + 4)
    framing = _judge(headers, source.unpacked_bytes)
    if source.damage and not framing.damage:
        return Framing(
            framing.lengths, f"offset {source.unpacked_bytes} or later of the unpacked data: {source.damage}"
        )
    damage = f"{framing.damage} (of the unpacked data: {source.damage})" if source.damage else framing.damage
    return Framing(framing.lengths, damage)


def _judge(headers: bytearray, size: int) -> Framing:
    """Return the whole records among those whose headers were met, and the first damage; `size` is that of the file."""
    fields = np.frombuffer(bytes(headers), np.uint8).reshape(-1, _HEADER.size)
    lengths = np.ascontiguousarray(fields[:, :8]).view("<u8").ravel()
    crcs = np.ascontiguousarray(fields[:, 8:]).view("<u4").ravel()
    wrong = np.flatnonzero(masked_crc32c(fields[:, :8]) != crcs) if len(fields) else np.zeros(0, np.int64)
    sound = int(wrong[0]) if len(wrong) else len(lengths)
    ends = np.cumsum(lengths[:sound] + np.uint64(_FRAME_BYTES), dtype=np.uint64)
    if len(wrong):
        hint = " (no TFRecord file?)" if sound == 0 else ""
        return Framing(lengths[:sound], f"offset {_last(ends)}: the checksum of its length is wrong{hint}")
    whole = int(np.searchsorted(ends, np.uint64(size), side="right"))
    begun = _last(ends[:whole])
    if begun == size:
        return Framing(lengths[:whole], "")
    announced = f"the record announces {lengths[whole]} bytes" if whole < len(lengths) else "a header has 12 bytes"
    return Framing(
        lengths[:whole],
        f"offset {begun}: the file ends inside record {whole}; {announced}, "
        f"{size - begun} bytes are left for all of it",
    )


def _last(ends: Array) -> int:
    return int(ends[-1]) if len(ends) else 0


def _skip(stream: IO[bytes], count: int) -> None:
    while count > 0 and (chunk := stream.read(min(count, _CHUNK))):
        count -= len(chunk)


class _Inflating(io.RawIOBase):
    """The unpacked bytes of a gzip or zlib file; ends at damage and says what it was."""

    def __init__(self, raw: IO[bytes]):
        super().__init__()
        self.damage = ""
        self.unpacked_bytes = 0
        self._raw = raw
        self._inflater = zlib.decompressobj(wbits=47)  # 32 + 15: either header, by its first bytes
        self._pending = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = b""
        while not data and not self._inflater.eof and not self.damage:
            packed = self._pending or self._raw.read(_CHUNK)
            try:
                data = self._inflater.decompress(packed, len(buffer))
            except zlib.error as error:
                end = self._raw.tell()
                self.damage = f"the compressed file is damaged at its bytes {end - len(packed)} to {end} ({error})"
            self._pending = self._inflater.unconsumed_tail
            if not packed and not data and not self._inflater.eof:
                self.damage = f"the compressed file ends too early, after {self._raw.tell()} bytes"
        buffer[: len(data)] = data
        self.unpacked_bytes += len(data)
        return len(data)
