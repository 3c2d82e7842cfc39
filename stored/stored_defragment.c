/*
 * Maintenance.Defragment: answered when nothing that was compacted away takes room any more. It
 * waits for the removal of history that is under way, then has LevelDB merge its tables on a
 * worker. Applying and reading go on meanwhile; callers that come later share the next round.
 */
#include "stored/stored.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "lib/log/log.h"
#include "lib/loop/loop.h"
#include "lib/proto/outcome.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"

enum { RANGES = 64, WAITING_MAX = 1024, LOOK_AGAIN_MS = 20 };

struct waiting {
    struct list node;
    uint64_t gateway_generation, id;
    bool in_round; /* the merge under way began after it came */
};

static void answer(struct stored *s, struct waiting *w)
{
    for (uint64_t i = 0; i < s->conf->gateway_count; i++)
        if (s->gateways[i].generation == w->gateway_generation)
            stored_send_result(&s->gateways[i], w->id, OUT_OK, BYTES_EMPTY);
    list_remove(&w->node);
    s->defragment_count--;
    free(w);
}

void stored_defragment_kick(struct stored *s)
{
    struct buf *keys;

    if (s->kv == NULL || s->failed || list_empty(&s->defragments) || s->merging)
        return;
    if (kv_compact_unfinished(s->kv)) {
        loop_timer_start(s->defragment_timer, LOOK_AGAIN_MS, 0);
        return;
    }
    keys = xcalloc(RANGES, sizeof(*keys));
    for (size_t i = 0; i < RANGES; i++)
        kv_engine_border(s->kv, i + 1, RANGES + 1, &keys[i]);
    s->merging = engine_leveldb_merge(s->engine, keys, RANGES, stored_defragment_merged);
    LIST_FOREACH(it, &s->defragments)
        LIST_ENTRY(it, struct waiting, node)->in_round = s->merging;
}

void stored_defragment_merged(void *user)
{
    struct stored *s = user;
    struct engine_leveldb_stats stats;

    s->merging = false;
    engine_leveldb_get_stats(s->engine, &stats);
    log_info("defragmented: %" PRIu64 " bytes on disk", stats.disk_bytes);
    LIST_FOREACH_SAFE(it, tmp, &s->defragments)
    {
        struct waiting *w = LIST_ENTRY(it, struct waiting, node);

        if (w->in_round)
            answer(s, w);
    }
    stored_defragment_kick(s);
}

int stored_defragment(struct stored_gateway *gw, uint64_t id)
{
    struct stored *s = gw->s;
    struct waiting *w;

    if (s->defragment_count >= WAITING_MAX)
        return OUT_TOO_MANY_REQUESTS;
    w = xcalloc(1, sizeof(*w));
    w->gateway_generation = gw->generation;
    w->id = id;
    list_push_back(&s->defragments, &w->node);
    s->defragment_count++;
    if (!s->merging)
        log_info("defragmenting");
    stored_defragment_kick(s);
    return -EINPROGRESS;
}

static void on_timer(void *user)
{
    stored_defragment_kick(user);
}

void stored_defragment_state_closed(struct stored *s)
{
    s->merging = false; /* the engine is gone; another round follows */
    if (!list_empty(&s->defragments))
        loop_timer_start(s->defragment_timer, LOOK_AGAIN_MS, 0);
}

void stored_defragment_init(struct stored *s)
{
    list_init(&s->defragments);
    s->defragment_timer = loop_timer_new(s->loop, "defragment", on_timer, s);
}

void stored_defragment_fini(struct stored *s)
{
    struct list *node;

    while (s->defragments.next != NULL && (node = list_pop_front(&s->defragments)) != NULL)
        free(LIST_ENTRY(node, struct waiting, node));
    loop_timer_free(s->defragment_timer);
    s->defragment_timer = NULL;
}
