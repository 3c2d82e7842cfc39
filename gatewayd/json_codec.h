/*
 * The JSON form of protocol buffers messages (proto3 JSON mapping), driven by protobuf-c's
 * descriptors: proto names, 64-bit integers as strings, base64 bytes, enums by name, fields at
 * their default left out. Read more loosely: lowerCamelCase names too, integers as numbers or
 * strings, enums by name or number, either base64 alphabet; unknown names are ignored.
 */
#ifndef CONCLAVE_GATEWAYD_JSON_CODEC_H
#define CONCLAVE_GATEWAYD_JSON_CODEC_H

#include <protobuf-c/protobuf-c.h>
#include "lib/util/buf.h"

/* Once, before the first use: the JSON library wipes what it frees, as passwords may be in it. */
void json_codec_init(void);

/*
 * Reads one JSON object off the front of text and appends the message's wire form. 0 and how much
 * of text it took; -ENODATA: only white space there; -EAGAIN: text ends within the value; -EINVAL
 * with *ret_error (free()). After an error, *out may hold a part.
 */
int json_to_pb(struct bytes text, const ProtobufCMessageDescriptor *type, struct buf *out,
               size_t *ret_used, char **ret_error);

/* Appends the JSON object for a message. 0 or -EBADMSG: not a message of this type. */
int json_from_pb(struct bytes message, const ProtobufCMessageDescriptor *type, struct buf *out);

/* Appends a JSON string, quotes included. Text that is not UTF-8 gets U+FFFD for what is not. */
void json_put_string(struct buf *out, struct bytes text);

#endif
