"""THE record contract, shared by the writer and the reader.

One record is one `tf.train.Example` in TFRecord framing, with the features
of `Record`. It takes protobuf and a CRC only, so a machine that only prepares
data starts without TensorFlow.

The framing of a record, all integers little-endian (tensorflow,
`core/lib/io/record_writer.h`): uint64 length, uint32 masked CRC-32C of the
length, the payload, uint32 masked CRC-32C of the payload.
"""

import dataclasses
import hashlib
import struct

import google_crc32c
import numpy as np
from google.protobuf import descriptor_pb2
from google.protobuf import descriptor_pool
from google.protobuf import message_factory

HEADER_BYTES = 12
FOOTER_BYTES = 4

# One row per record of a split, in record order: where its payload lies (file
# number among the split's shards, byte offset, length in bytes), where in the
# payload the image lies, and what the record says of it. So an order can be
# planned without reading any image, and an image read without parsing.
INDEX_DTYPE = np.dtype(
    [
        ("shard", "<i4"),
        ("label", "<i4"),
        ("offset", "<i8"),
        ("bytes", "<i8"),
        ("image_offset", "<i8"),
        ("image_bytes", "<i8"),
        ("id", "<i8"),
        ("width", "<i4"),
        ("height", "<i4"),
    ]
)


@dataclasses.dataclass(frozen=True)
class Record:
    """One labelled image as it is stored.

    Attributes:
        image: JPEG or PNG bytes; or, in a data set of encoding "raw", the
            uint8 RGB pixels, `height * width * 3` bytes, row by row.
        label: Position of the class in the manifest's sorted class list.
        id: What identifies the image in every order, feature and prediction:
            `image_id(file)`.
        file: Path relative to the source folder, with forward slashes.
        width: Width of the stored image in pixels.
        height: Height of the stored image in pixels.
    """

    image: bytes
    label: int
    id: int
    file: str
    width: int
    height: int


def image_id(file: str) -> int:
    """Returns the id of an image: 63 bits of the SHA-256 of its relative path.

    It depends on nothing but the path, so adding images changes no other id.
    """
    digest = hashlib.sha256(file.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def serialize(record: Record) -> bytes:
    """Returns the record as a serialised `tf.train.Example`."""
    example = _EXAMPLE()
    feature = example.features.feature
    feature["image"].bytes_list.value.append(record.image)
    feature["label"].int64_list.value.append(record.label)
    feature["id"].int64_list.value.append(record.id)
    feature["file"].bytes_list.value.append(
        record.file.encode("utf-8", "surrogateescape")
    )
    feature["width"].int64_list.value.append(record.width)
    feature["height"].int64_list.value.append(record.height)
    # Map entries have no order of their own; equal input must give equal bytes.
    return example.SerializeToString(deterministic=True)


def deserialize(payload: bytes) -> Record:
    """Returns the record that `serialize` gave as `payload`."""
    feature = _EXAMPLE.FromString(payload).features.feature
    return Record(
        image=feature["image"].bytes_list.value[0],
        label=feature["label"].int64_list.value[0],
        id=feature["id"].int64_list.value[0],
        file=feature["file"]
        .bytes_list.value[0]
        .decode("utf-8", "surrogateescape"),
        width=feature["width"].int64_list.value[0],
        height=feature["height"].int64_list.value[0],
    )


def frame(payload: bytes) -> bytes:
    """Returns `payload` in TFRecord framing, ready to be appended to a file."""
    length = struct.pack("<Q", len(payload))
    return b"".join(
        (
            length,
            struct.pack("<I", masked_crc(length)),
            payload,
            struct.pack("<I", masked_crc(payload)),
        )
    )


def masked_crc(data: bytes) -> int:
    """Returns the CRC-32C of `data`, masked as the TFRecord format asks.

    The mask is that of tensorflow, `core/lib/hash/crc32c.h`.
    """
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def check_frame(framed: bytes, length: int) -> bytes:
    """Returns the payload of a record in TFRecord framing.

    Args:
        framed: All that was read of it: `length` bytes and the framing, or
            fewer where the file ends.
        length: Bytes of payload that are expected.

    Raises:
        ValueError: Saying which part is damaged.
    """
    if len(framed) != HEADER_BYTES + length + FOOTER_BYTES:
        raise ValueError("the file ends within the record")
    (found,) = struct.unpack_from("<Q", framed)
    if found != length:
        raise ValueError(f"its length says {found}, expected {length}")
    (stored,) = struct.unpack_from("<I", framed, 8)
    if masked_crc(framed[:8]) != stored:
        raise ValueError("the checksum of its length is wrong")
    return unframe(framed[HEADER_BYTES:])


def unframe(payload_and_footer: bytes) -> bytes:
    """Returns the payload that stands before its 4-byte checksum.

    Raises:
        ValueError: If the checksum does not fit the payload.
    """
    payload = payload_and_footer[:-FOOTER_BYTES]
    (stored,) = struct.unpack("<I", payload_and_footer[-FOOTER_BYTES:])
    if masked_crc(payload) != stored:
        raise ValueError("the record's checksum does not fit its content")
    return payload


def _example_class():
    """Builds the message class of `tf.train.Example` without TensorFlow.

    Field names and numbers are those of tensorflow, `core/example/feature.proto`.
    The pool is private, so it never meets TensorFlow's own registration.
    """
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="shardtune/example.proto", package="shardtune", syntax="proto3"
    )

    def add_field(message, name, number, kind, *, repeated=False, of=None):
        field = message.field.add(name=name, number=number, type=kind)
        field.label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
        if of:
            field.type_name = f".shardtune.{of}"
        return field

    for name, kind in (
        ("BytesList", kinds.TYPE_BYTES),
        ("FloatList", kinds.TYPE_FLOAT),
        ("Int64List", kinds.TYPE_INT64),
    ):
        message = file.message_type.add(name=name)
        add_field(message, "value", 1, kind, repeated=True)

    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, of) in enumerate(
        (
            ("bytes_list", "BytesList"),
            ("float_list", "FloatList"),
            ("int64_list", "Int64List"),
        ),
        start=1,
    ):
        field = add_field(feature, name, number, kinds.TYPE_MESSAGE, of=of)
        field.oneof_index = 0

    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    add_field(entry, "key", 1, kinds.TYPE_STRING)
    add_field(entry, "value", 2, kinds.TYPE_MESSAGE, of="Feature")
    add_field(
        features,
        "feature",
        1,
        kinds.TYPE_MESSAGE,
        repeated=True,
        of="Features.FeatureEntry",
    )

    example = file.message_type.add(name="Example")
    add_field(example, "features", 1, kinds.TYPE_MESSAGE, of="Features")

    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName("shardtune.Example")
    )


_EXAMPLE = _example_class()
