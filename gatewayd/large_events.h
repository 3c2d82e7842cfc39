/*
 * Events of revisions that are too large for one message: kept once for all watchers they go to.
 *
 * Stored sends such a revision in parts to each watcher. Whoever gets a part that another watcher got
 * at the same place keeps that one's bytes; a part that differs (another range, another filter)
 * makes a sequence of its own. So nobody has to know what is alike: it is compared. The bytes stay while
 * a watcher is still to get the rest, or a client to take them. Loop thread only.
 */
#ifndef CONCLAVE_GATEWAYD_LARGE_EVENTS_H
#define CONCLAVE_GATEWAYD_LARGE_EVENTS_H

#include <stddef.h>
#include <stdint.h>
#include "lib/util/bytes.h"

struct large_events;
struct large_place; /* of one watcher in one revision */
struct loop;
struct shared_bytes;

struct large_events *large_events_new(struct loop *loop);
void large_events_free(struct large_events *all); /* no place is left; NULL is fine */
size_t large_events_bytes(const struct large_events *all); /* kept */

struct large_place *large_place_new(struct large_events *all, int64_t revision);
void large_place_free(struct large_place *p); /* NULL is fine */
void large_place_add(struct large_place *p, struct bytes part); /* the next one; may be empty */
/* All parts so far; borrowed until the place is changed. */
struct shared_bytes *const *large_place_blocks(const struct large_place *p, size_t *ret_count);

#endif
