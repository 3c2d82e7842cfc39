/* Base64 (RFC 4648 section 4), and the URL alphabet of section 5 when reading. */
#ifndef CONCLAVE_UTIL_BASE64_H
#define CONCLAVE_UTIL_BASE64_H

#include "lib/util/buf.h"

/* Appends, with padding, without line breaks. */
void base64_encode(struct buf *b, struct bytes data);
/* Appends what text stands for. Either alphabet; padding may be missing, but not wrong. 0, or
 * -EINVAL with nothing appended. */
int base64_decode(struct buf *b, struct bytes text);

#endif
