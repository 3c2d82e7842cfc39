#include "gatewayd/json_codec.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <malloc.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "lib/util/base64.h"
#include "lib/util/utf8.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/pb.h"

enum { DEPTH_MAX = 100 }; /* messages within messages, as protobuf's own limit */

/* ---- reading ---- */

struct reading {
    char *error;
};

static int refuse(struct reading *r, const ProtobufCFieldDescriptor *f, const char *what)
{
    free(r->error);
    r->error = xasprintf("proto: invalid value for %s field %s", what, f->name);
    return -EINVAL;
}

/* range_end is also rangeEnd. */
static bool is_json_name(const char *proto, const char *key)
{
    bool upper = false;

    for (; *proto != '\0'; proto++) {
        char c = *proto;

        if (c == '_') {
            upper = true;
            continue;
        }
        if (upper && c >= 'a' && c <= 'z')
            c = (char)(c - 'a' + 'A');
        upper = false;
        if (*key++ != c)
            return false;
    }
    return *key == '\0';
}

static const ProtobufCFieldDescriptor *find_field(const ProtobufCMessageDescriptor *type,
                                                  const char *key)
{
    for (unsigned int i = 0; i < type->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &type->fields[i];

        if (strcmp(f->name, key) == 0 || is_json_name(f->name, key))
            return f;
    }
    return NULL;
}

static bool is_unsigned(ProtobufCType type)
{
    return type == PROTOBUF_C_TYPE_UINT32 || type == PROTOBUF_C_TYPE_UINT64;
}

static bool is_32_bit(ProtobufCType type)
{
    return type == PROTOBUF_C_TYPE_INT32 || type == PROTOBUF_C_TYPE_UINT32;
}

static bool parse_integer(const char *text, bool is_unsigned, uint64_t *ret)
{
    const char *digits = text + (text[0] == '-' && !is_unsigned);
    char *end;

    if (digits[0] < '0' || digits[0] > '9')
        return false;
    errno = 0;
    *ret = is_unsigned ? strtoull(text, &end, 10) : (uint64_t)strtoll(text, &end, 10);
    return *end == '\0' && errno == 0;
}

static int read_integer(struct reading *r, const ProtobufCFieldDescriptor *f, const json_t *value,
                        struct buf *out)
{
    const char *what = is_32_bit(f->type) ? (is_unsigned(f->type) ? "uint32" : "int32")
                                          : (is_unsigned(f->type) ? "uint64" : "int64");
    uint64_t v = 0;
    bool good;

    if (json_is_integer(value)) {
        v = (uint64_t)json_integer_value(value);
        good = !is_unsigned(f->type) || json_integer_value(value) >= 0;
    } else if (json_is_real(value)) { /* 1e3, or beyond what an integer of jansson holds */
        double d = json_real_value(value);

        good = d == trunc(d) && (is_unsigned(f->type) ? d >= 0 && d < 18446744073709551616.0
                                                      : fabs(d) < 9223372036854775808.0);
        if (good)
            v = is_unsigned(f->type) ? (uint64_t)d : (uint64_t)(int64_t)d;
    } else {
        good = json_is_string(value) &&
               parse_integer(json_string_value(value), is_unsigned(f->type), &v);
    }
    if (good && is_32_bit(f->type))
        good = is_unsigned(f->type) ? v <= UINT32_MAX : (int64_t)v == (int32_t)v;
    if (!good)
        return refuse(r, f, what);
    pb_put_varint(out, v);
    return 0;
}

static int read_enum(struct reading *r, const ProtobufCFieldDescriptor *f, const json_t *value,
                     struct buf *out)
{
    const ProtobufCEnumDescriptor *type = f->descriptor;

    if (json_is_integer(value) && json_integer_value(value) == (int32_t)json_integer_value(value)) {
        pb_put_varint(out, (uint64_t)json_integer_value(value));
        return 0;
    }
    if (json_is_string(value)) {
        const ProtobufCEnumValue *v =
            protobuf_c_enum_descriptor_get_value_by_name(type, json_string_value(value));

        if (v != NULL) {
            pb_put_varint(out, (uint64_t)(int64_t)v->value);
            return 0;
        }
    }
    return refuse(r, f, "enum");
}

static int read_object(struct reading *r, const json_t *object,
                       const ProtobufCMessageDescriptor *type, unsigned int depth,
                       struct buf *out);

static int read_length_delimited(struct reading *r, const ProtobufCFieldDescriptor *f,
                                 const json_t *value, unsigned int depth, struct buf *out)
{
    CLEANUP(buf_fini) struct buf body = BUF_INIT;
    int e = 0;

    if (f->type == PROTOBUF_C_TYPE_MESSAGE) {
        if (!json_is_object(value))
            return refuse(r, f, "message");
        e = read_object(r, value, f->descriptor, depth + 1, &body);
    } else if (!json_is_string(value)) {
        return refuse(r, f, f->type == PROTOBUF_C_TYPE_BYTES ? "bytes" : "string");
    } else {
        struct bytes text = bytes_of(json_string_value(value), json_string_length(value));

        if (f->type == PROTOBUF_C_TYPE_STRING)
            buf_append_bytes(&body, text);
        else if (base64_decode(&body, text) != 0)
            return refuse(r, f, "bytes");
    }
    if (e == 0) {
        pb_put_varint(out, body.len);
        buf_append_bytes(out, buf_bytes(&body));
    }
    return e;
}

static int read_value(struct reading *r, const ProtobufCFieldDescriptor *f, const json_t *value,
                      unsigned int depth, struct buf *out)
{
    switch (f->type) {
    case PROTOBUF_C_TYPE_MESSAGE:
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_BYTES:
        pb_put_tag(out, f->id, PB_LENGTH);
        return read_length_delimited(r, f, value, depth, out);
    case PROTOBUF_C_TYPE_BOOL:
        if (!json_is_boolean(value))
            return refuse(r, f, "bool");
        pb_put_tag(out, f->id, PB_VARINT);
        pb_put_varint(out, json_is_true(value));
        return 0;
    case PROTOBUF_C_TYPE_ENUM:
        pb_put_tag(out, f->id, PB_VARINT);
        return read_enum(r, f, value, out);
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_UINT64:
        pb_put_tag(out, f->id, PB_VARINT);
        return read_integer(r, f, value, out);
    default: /* etcd's messages have no other */
        return refuse(r, f, "unsupported");
    }
}

static int read_object(struct reading *r, const json_t *object,
                       const ProtobufCMessageDescriptor *type, unsigned int depth, struct buf *out)
{
    const char *key;
    json_t *value;
    int e = 0;

    if (depth > DEPTH_MAX) {
        r->error = xstrdup("proto: exceeded max recursion depth");
        return -EINVAL;
    }
    json_object_foreach ((json_t *)object, key, value) {
        const ProtobufCFieldDescriptor *f = find_field(type, key);
        const json_t *item;
        size_t i;

        if (f == NULL || json_is_null(value))
            continue;
        if (f->label != PROTOBUF_C_LABEL_REPEATED) {
            e = read_value(r, f, value, depth, out);
        } else if (!json_is_array(value)) {
            e = refuse(r, f, "repeated");
        } else {
            json_array_foreach (value, i, item) {
                if (e == 0)
                    e = read_value(r, f, item, depth, out);
            }
        }
        if (e != 0)
            return e;
    }
    return 0;
}

static void free_wiped(void *data)
{
    if (data != NULL)
        explicit_bzero(data, malloc_usable_size(data));
    free(data);
}

void json_codec_init(void)
{
    json_set_alloc_funcs(malloc, free_wiped);
}

static bool is_space(uint8_t c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

int json_to_pb(struct bytes text, const ProtobufCMessageDescriptor *type, struct buf *out,
               size_t *ret_used, char **ret_error)
{
    struct reading r = {0};
    json_error_t error;
    json_t *object;
    size_t start = 0;
    int e;

    while (start < text.len && is_space(text.data[start]))
        start++;
    *ret_used = start;
    if (start == text.len)
        return -ENODATA;
    object = json_loadb((const char *)text.data + start, text.len - start,
                        JSON_DISABLE_EOF_CHECK | JSON_ALLOW_NUL | JSON_DECODE_ANY, &error);
    if (object == NULL) {
        if (json_error_code(&error) == json_error_premature_end_of_input)
            return -EAGAIN;
        *ret_error = xasprintf("proto: syntax error (line %d:%d): %s", error.line, error.column,
                               error.text);
        return -EINVAL;
    }
    *ret_used = start + (size_t)error.position;
    if (!json_is_object(object)) {
        *ret_error = xstrdup("proto: syntax error: the request must be a JSON object");
        e = -EINVAL;
    } else {
        e = read_object(&r, object, type, 0, out);
        if (e != 0)
            *ret_error = r.error;
    }
    json_decref(object);
    return e;
}

/* ---- writing ---- */

void json_put_string(struct buf *out, struct bytes text)
{
    buf_append_u8(out, '"');
    while (text.len > 0) {
        uint8_t c = text.data[0];
        size_t len = utf8_len(text);

        if (c == '"' || c == '\\')
            buf_appendf(out, "\\%c", c);
        else if (c == '\n')
            buf_append(out, "\\n", 2);
        else if (c < 0x20 || c == 0x7f)
            buf_appendf(out, "\\u%04x", c);
        else if (len == 0)
            buf_append(out, "\xef\xbf\xbd", 3);
        else
            buf_append(out, text.data, len);
        len = MAX(len, (size_t)1);
        text.data += len;
        text.len -= len;
    }
    buf_append_u8(out, '"');
}

static void put_object(struct buf *out, const ProtobufCMessage *message);

static void put_value(struct buf *out, const ProtobufCFieldDescriptor *f, const void *at)
{
    const ProtobufCBinaryData *data;
    const ProtobufCEnumValue *name;

    switch (f->type) {
    case PROTOBUF_C_TYPE_MESSAGE:
        put_object(out, *(ProtobufCMessage *const *)at);
        return;
    case PROTOBUF_C_TYPE_STRING:
        json_put_string(out, bytes_str(*(const char *const *)at));
        return;
    case PROTOBUF_C_TYPE_BYTES:
        data = at;
        buf_append_u8(out, '"');
        base64_encode(out, bytes_of(data->data, data->len));
        buf_append_u8(out, '"');
        return;
    case PROTOBUF_C_TYPE_BOOL:
        buf_appendf(out, "%s", *(const protobuf_c_boolean *)at ? "true" : "false");
        return;
    case PROTOBUF_C_TYPE_ENUM:
        name = protobuf_c_enum_descriptor_get_value(f->descriptor, *(const int32_t *)at);
        if (name != NULL)
            buf_appendf(out, "\"%s\"", name->name);
        else
            buf_appendf(out, "%" PRId32, *(const int32_t *)at);
        return;
    case PROTOBUF_C_TYPE_INT32:
        buf_appendf(out, "%" PRId32, *(const int32_t *)at);
        return;
    case PROTOBUF_C_TYPE_UINT32:
        buf_appendf(out, "%" PRIu32, *(const uint32_t *)at);
        return;
    case PROTOBUF_C_TYPE_INT64:
        buf_appendf(out, "\"%" PRId64 "\"", *(const int64_t *)at);
        return;
    case PROTOBUF_C_TYPE_UINT64:
        buf_appendf(out, "\"%" PRIu64 "\"", *(const uint64_t *)at);
        return;
    default: /* etcd's messages have no other */
        buf_append(out, "null", 4);
        return;
    }
}

static size_t size_of(ProtobufCType type)
{
    switch (type) {
    case PROTOBUF_C_TYPE_MESSAGE:
    case PROTOBUF_C_TYPE_STRING:
        return sizeof(void *);
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    case PROTOBUF_C_TYPE_BOOL:
        return sizeof(protobuf_c_boolean);
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_UINT64:
        return 8;
    default:
        return 4;
    }
}

static bool is_default(const ProtobufCFieldDescriptor *f, const void *at)
{
    static const uint8_t zeros[8];

    if (f->type == PROTOBUF_C_TYPE_STRING)
        return **(const char *const *)at == '\0';
    if (f->type == PROTOBUF_C_TYPE_BYTES)
        return ((const ProtobufCBinaryData *)at)->len == 0;
    return memcmp(at, zeros, size_of(f->type)) == 0; /* a message: absent */
}

static bool is_absent(const ProtobufCFieldDescriptor *f, const ProtobufCMessage *message)
{
    const uint8_t *base = (const uint8_t *)message;

    if (f->label == PROTOBUF_C_LABEL_REPEATED)
        return *(const size_t *)(const void *)(base + f->quantifier_offset) == 0;
    if ((f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0)
        return *(const uint32_t *)(const void *)(base + f->quantifier_offset) != f->id;
    return is_default(f, base + f->offset);
}

static void put_repeated(struct buf *out, const ProtobufCFieldDescriptor *f,
                         const ProtobufCMessage *message)
{
    const uint8_t *base = (const uint8_t *)message;
    size_t count = *(const size_t *)(const void *)(base + f->quantifier_offset);
    const uint8_t *items = *(const uint8_t *const *)(const void *)(base + f->offset);

    buf_append_u8(out, '[');
    for (size_t i = 0; i < count; i++) {
        if (i > 0)
            buf_append_u8(out, ',');
        put_value(out, f, items + i * size_of(f->type));
    }
    buf_append_u8(out, ']');
}

static void put_object(struct buf *out, const ProtobufCMessage *message)
{
    const ProtobufCMessageDescriptor *type = message->descriptor;
    bool first = true;

    buf_append_u8(out, '{');
    for (unsigned int i = 0; i < type->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &type->fields[i];

        if (is_absent(f, message))
            continue;
        buf_appendf(out, "%s\"%s\":", first ? "" : ",", f->name);
        first = false;
        if (f->label == PROTOBUF_C_LABEL_REPEATED)
            put_repeated(out, f, message);
        else
            put_value(out, f, (const uint8_t *)message + f->offset);
    }
    buf_append_u8(out, '}');
}

int json_from_pb(struct bytes message, const ProtobufCMessageDescriptor *type, struct buf *out)
{
    ProtobufCMessage *m = protobuf_c_message_unpack(type, NULL, message.len, message.data);

    if (m == NULL)
        return -EBADMSG;
    put_object(out, m);
    protobuf_c_message_free_unpacked(m, NULL);
    return 0;
}
