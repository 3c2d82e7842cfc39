/*
 * Any message as JSON, led by its descriptor: as Go's encoding/json prints the generated struct,
 * which is what etcdctl does (numbers stay numbers, bytes are base64, enums numbers). A oneof is an
 * interface field there: {"Response":{"response_put":{...}}}.
 */
#include <inttypes.h>
#include "ctl/ctl_text.h"

static const void *member(const ProtobufCMessage *m, size_t offset)
{
    return (const uint8_t *)m + offset;
}

/* One value, an element of a repeated field or a field itself. */
static void value_print(FILE *out, const ProtobufCFieldDescriptor *f, const void *at)
{
    switch (f->type) {
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
        fprintf(out, "%" PRId64, *(const int64_t *)at);
        break;
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        fprintf(out, "%" PRIu64, *(const uint64_t *)at);
        break;
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
        fprintf(out, "%" PRIu32, *(const uint32_t *)at);
        break;
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_ENUM:
        fprintf(out, "%" PRId32, *(const int32_t *)at);
        break;
    case PROTOBUF_C_TYPE_BOOL:
        fputs(*(const protobuf_c_boolean *)at ? "true" : "false", out);
        break;
    case PROTOBUF_C_TYPE_STRING:
        ctl_text_json_string(out, *(const char *const *)at);
        break;
    case PROTOBUF_C_TYPE_BYTES: {
        const ProtobufCBinaryData *b = at;

        putc('"', out);
        ctl_text_base64(out, b->data, b->len);
        putc('"', out);
        break;
    }
    case PROTOBUF_C_TYPE_MESSAGE:
        ctl_json_message(out, *(const ProtobufCMessage *const *)at);
        break;
    default:
        fputs("null", out); /* float and double: no message of etcd has one */
    }
}

static bool value_empty(const ProtobufCFieldDescriptor *f, const void *at)
{
    switch (f->type) {
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        return *(const uint64_t *)at == 0;
    case PROTOBUF_C_TYPE_BOOL:
        return !*(const protobuf_c_boolean *)at;
    case PROTOBUF_C_TYPE_STRING:
        return *(const char *const *)at == NULL || **(const char *const *)at == '\0';
    case PROTOBUF_C_TYPE_BYTES:
        return ((const ProtobufCBinaryData *)at)->len == 0;
    case PROTOBUF_C_TYPE_MESSAGE:
        return *(const ProtobufCMessage *const *)at == NULL;
    default:
        return *(const uint32_t *)at == 0;
    }
}

static size_t element_size(const ProtobufCFieldDescriptor *f)
{
    switch (f->type) {
    case PROTOBUF_C_TYPE_BOOL:
        return sizeof(protobuf_c_boolean);
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE:
        return sizeof(void *);
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        return 8;
    default:
        return 4;
    }
}

static void name_print(FILE *out, const char *name, bool first)
{
    fprintf(out, "%s\"%s\":", first ? "" : ",", name);
}

bool ctl_json_fields(FILE *out, const ProtobufCMessage *message)
{
    bool any = false;

    for (unsigned int i = 0; i < message->descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &message->descriptor->fields[i];
        const void *at = member(message, f->offset);

        if (f->label == PROTOBUF_C_LABEL_REPEATED) {
            size_t count = *(const size_t *)member(message, f->quantifier_offset);

            if (count == 0)
                continue;
            name_print(out, f->name, !any);
            for (size_t j = 0; j < count; j++) {
                putc(j == 0 ? '[' : ',', out);
                value_print(out, f, *(const uint8_t *const *)at + j * element_size(f));
            }
            putc(']', out);
        } else if ((f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0) {
            if (*(const uint32_t *)member(message, f->quantifier_offset) != f->id)
                continue;
            /* the oneofs of answers are named "response" */
            fprintf(out, "%s\"Response\":{\"%s\":", any ? "," : "", f->name);
            value_print(out, f, at);
            putc('}', out);
        } else {
            if (value_empty(f, at))
                continue;
            name_print(out, f->name, !any);
            value_print(out, f, at);
        }
        any = true;
    }
    return any;
}

void ctl_json_message(FILE *out, const ProtobufCMessage *message)
{
    putc('{', out);
    ctl_json_fields(out, message);
    putc('}', out);
}
