/*
 * What HTTP server and client share. Header names are lower case everywhere in this library, also
 * those of HTTP/1.1 requests; on an HTTP/1.1 wire they are written in Canonical-Case, as Go does.
 * nghttp2 and http_parser types stay in this folder.
 */
#ifndef CONCLAVE_HTTP_HTTP_H
#define CONCLAVE_HTTP_HTTP_H

#include <stddef.h>
#include <stdint.h>
#include "lib/util/bytes.h"

enum http_version {
    HTTP_VERSION_1_0 = 10,
    HTTP_VERSION_1_1 = 11,
    HTTP_VERSION_2 = 20,
};

/* Connection-specific fields (connection, transfer-encoding, content-length) are not given by
 * callers: the library writes them where the protocol wants them. */
struct http_header {
    struct bytes name; /* lower case */
    struct bytes value;
};

/* from literals; inner braces, so that it may initialise static objects too */
#define HTTP_HEADER(n, v)                                                                          \
    ((struct http_header){{(const uint8_t *)(n), sizeof(n) - 1},                                   \
                          {(const uint8_t *)(v), sizeof(v) - 1}})

/* RFC 9113 section 7; on HTTP/1.1 any reset closes the connection. */
enum http_reset {
    HTTP_RESET_NO_ERROR = 0x0,
    HTTP_RESET_PROTOCOL_ERROR = 0x1,
    HTTP_RESET_INTERNAL_ERROR = 0x2,
    HTTP_RESET_REFUSED_STREAM = 0x7,
    HTTP_RESET_CANCEL = 0x8,
    HTTP_RESET_ENHANCE_YOUR_CALM = 0xb,
};

const char *http_status_text(int status); /* "OK"; "" for a code nobody knows */

#endif
