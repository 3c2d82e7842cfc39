/*
 * A set of keys as disjoint ascending intervals: what one user's roles allow, merged. A request's
 * range is allowed when it lies within the union (etcd server/auth/range_perm_cache.go).
 */
#ifndef CONCLAVE_STORED_AUTH_RANGES_H
#define CONCLAVE_STORED_AUTH_RANGES_H

#include <stdbool.h>
#include <stddef.h>
#include "lib/util/buf.h"
#include "lib/util/bytes.h"

struct auth_range {
    struct buf from, to; /* [from, to) */
    bool open_ended;     /* no upper end; `to` is empty */
};

struct auth_ranges {
    struct auth_range *list;
    size_t count;
    bool merged;
};

void auth_ranges_fini(struct auth_ranges *set);
/* range_end as in a request: empty: that key alone; "\0": everything from key on. An interval that
 * holds nothing adds nothing. */
void auth_ranges_add(struct auth_ranges *set, struct bytes key, struct bytes range_end);
void auth_ranges_merge(struct auth_ranges *set); /* after the last add, before the first question */
/* An interval that holds nothing is covered by nothing. */
bool auth_ranges_covers(const struct auth_ranges *set, struct bytes key, struct bytes range_end);

#endif
