/*
 * Text as Go's standard library writes it: quoted strings, JSON, sizes, durations.
 */
#ifndef CONCLAVE_CTL_CTL_TEXT_H
#define CONCLAVE_CTL_CTL_TEXT_H

#include <protobuf-c/protobuf-c.h>
#include <stdint.h>
#include <stdio.h>
#include "lib/util/buf.h"

void ctl_text_quote(struct buf *out, const void *data, size_t len); /* %q */
/* Reads a quoted string ("..." or `...`) at *p; 0 and *p behind it, or -EINVAL. */
int ctl_text_unquote(const char **p, struct buf *ret);
void ctl_text_json_string(FILE *out, const char *text);
void ctl_text_base64(FILE *out, const void *data, size_t len);
/* "\x66\x6f" for every byte */
void ctl_text_hex(FILE *out, const void *data, size_t len);
/* "20 kB": three significant digits at most, powers of 1000. free() */
char *ctl_text_size(uint64_t bytes);
/* "1.5ms", "2m0s". free() */
char *ctl_text_duration(int64_t ns);

/* A message as encoding/json writes its Go struct: names of the .proto, empty fields left out. */
void ctl_json_message(FILE *out, const ProtobufCMessage *message);
/* The fields alone, without braces; returns whether there were any. */
bool ctl_json_fields(FILE *out, const ProtobufCMessage *message);

#endif
