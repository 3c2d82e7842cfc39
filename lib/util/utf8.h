/*
 * UTF-8 as RFC 3629 has it: nothing overlong, no surrogates, nothing above U+10FFFF.
 */
#ifndef CONCLAVE_UTIL_UTF8_H
#define CONCLAVE_UTIL_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include "lib/util/bytes.h"

/* Length of the sequence at the front of text, which is not empty; 0: it is none. */
size_t utf8_len(struct bytes text);

bool utf8_valid(struct bytes text);

#endif
