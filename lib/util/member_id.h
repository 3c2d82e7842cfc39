/*
 * Member and cluster ids, derived exactly as etcd derives them, so that a member configured the
 * same has the same identity under both.
 */
#ifndef CONCLAVE_UTIL_MEMBER_ID_H
#define CONCLAVE_UTIL_MEMBER_ID_H

#include <stddef.h>
#include <stdint.h>

/* First 8 bytes, big-endian, of SHA-1 over the peer URLs in sorted order (sorted here) and the
 * cluster token; for a member that is added at run time also its Unix time in decimal. */
uint64_t member_id_derive(const char *const *peer_urls, size_t count, const char *token,
                          const char *unix_seconds /* NULL: none */);
/* First 8 bytes of SHA-1 over the sorted ids, each 8 bytes big-endian. */
uint64_t cluster_id_derive(const uint64_t *member_ids, size_t count);

#endif
