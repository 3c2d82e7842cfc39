/*
 * CRC-32C (Castagnoli, RFC 3720 appendix B.4). Uses the SSE4.2 instruction where the processor has
 * it and a table otherwise. Debian 12 packages no C library for it.
 */
#ifndef CONCLAVE_UTIL_CRC32C_H
#define CONCLAVE_UTIL_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Extends `crc` (0 to begin) over `len` more bytes. crc32c(crc32c(0,a),b) == crc32c(0,a||b). */
uint32_t crc32c(uint32_t crc, const void *data, size_t len);

#endif
