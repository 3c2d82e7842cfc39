/*
 * The background removal of compacted history: one slice of compaction-batch-limit keys, then a
 * pause of compaction-sleep-interval, as etcd paces it. What is left over at a stop goes on after
 * the next start; the compact revision itself moved when the entry was executed.
 */
#include "stored/stored.h"

#include <errno.h>
#include <string.h>

#include "lib/log/log.h"
#include "lib/loop/loop.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"

enum { BATCH_LIMIT_DEFAULT = 1000, SLEEP_MS_DEFAULT = 10 };

static uint64_t sleep_ms(const struct stored *s)
{
    uint64_t ms = s->conf->compaction_sleep_ns / 1000000;

    return ms != 0 ? ms : SLEEP_MS_DEFAULT;
}

static void on_compact_timer(void *user)
{
    struct stored *s = user;
    int64_t limit = s->conf->compaction_batch_limit;
    int r;

    if (s->kv == NULL || s->failed)
        return;
    if (kv_compact_pending(s->kv) && !engine_leveldb_is_full(s->engine)) {
        r = kv_compact_step(s->kv, limit > 0 ? (size_t)limit : BATCH_LIMIT_DEFAULT);
        if (r < 0) {
            CLEANUP(freep) char *text = xasprintf("compaction of history: %s", strerror(-r));

            stored_fatal(s, text);
            return;
        }
        stored_apply_release_held(s);
        stored_space_changed(s);
    }
    stored_compact_kick(s);
}

void stored_compact_kick(struct stored *s)
{
    if (!loop_timer_active(s->compact_timer) && kv_compact_pending(s->kv))
        loop_timer_start(s->compact_timer, sleep_ms(s), 0);
    else if (!kv_compact_pending(s->kv))
        stored_apply_release_held(s);
    if (kv_compact_unfinished(s->kv) && !kv_compact_pending(s->kv))
        engine_leveldb_sync(s->engine); /* it waits for what is applied to be durable */
}

int stored_compact_init(struct stored *s)
{
    s->compact_timer = loop_timer_new(s->loop, "compact history", on_compact_timer, s);
    return 0;
}

void stored_compact_fini(struct stored *s)
{
    loop_timer_free(s->compact_timer);
    s->compact_timer = NULL;
}
