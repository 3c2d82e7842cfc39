/*
 * The watchers of one client's stream by the ids that client knows. Chained through the watchers
 * themselves: a watcher costs a pointer and a share of the heads, a stream with only one nothing.
 * Loop thread only.
 */
#ifndef CONCLAVE_GATEWAYD_V3_WATCH_IDS_H
#define CONCLAVE_GATEWAYD_V3_WATCH_IDS_H

#include <stddef.h>
#include <stdint.h>

struct watcher;

struct watch_ids {
    struct watcher **heads; /* NULL: `one` is the only one */
    struct watcher *one;
    size_t mask; /* number of heads - 1 */
    size_t count;
};

void watch_ids_fini(struct watch_ids *ids); /* a zeroed one is empty */
struct watcher *watch_ids_get(const struct watch_ids *ids, int64_t watch_id); /* NULL: none */
/* By its watch_id, which is not there yet. */
void watch_ids_add(struct watch_ids *ids, struct watcher *w);
void watch_ids_remove(struct watch_ids *ids, struct watcher *w); /* it is there */

#endif
