/*
 * Automatic compaction of history: the leader's stored proposes what the compactor says. Nobody
 * waits for the answer; whether it succeeded shows in the compact revision.
 */
#include "stored/stored.h"

#include <errno.h>
#include <inttypes.h>

#include "lib/log/log.h"
#include "lib/loop/loop.h"
#include "lib/util/macros.h"
#include "lib/wire/pb.h"

static void on_tick(void *user)
{
    struct stored *s = user;
    CLEANUP(buf_fini) struct buf body = BUF_INIT; /* a CompactionRequest */
    struct kv_state state;
    bool is_leader;
    int64_t revision;

    if (s->kv == NULL || s->failed || s->stopping)
        return;
    kv_get_state(s->kv, &state);
    is_leader = s->raftd_up && s->have_role && s->role.state == PROTO_RAFT_LEADER;
    revision = compactor_tick(&s->compactor, loop_now_ns(s->loop), state.revision,
                              state.compact_revision, is_leader);
    if (revision == 0)
        return;
    if (revision <= state.compact_revision)
        return; /* somebody did it before: counts as done at the next tick */
    log_info("compacting history at revision %" PRId64 " (auto-compaction)", revision);
    pb_put_i64(&body, 1, revision);
    stored_propose_own(s, s->role.term, PROTO_KIND_COMPACT, buf_bytes(&body));
}

int stored_auto_compact_start(struct stored *s)
{
    uint64_t every;
    int r;

    if (s->conf->auto_compaction_mode == NULL)
        return 0; /* a keyspace without the daemon's settings around it */
    r = compactor_init(&s->compactor, s->conf->auto_compaction_mode,
                       s->conf->auto_compaction_retention, loop_now_ns(s->loop));
    if (r < 0) {
        log_error("auto-compaction-mode %s, auto-compaction-retention %s: not understood",
                  s->conf->auto_compaction_mode, s->conf->auto_compaction_retention);
        return r;
    }
    every = compactor_interval_ns(&s->compactor) / 1000000;
    if (every == 0)
        return 0;
    s->compactor_timer = loop_timer_new(s->loop, "auto compaction", on_tick, s);
    loop_timer_start(s->compactor_timer, s->compactor.mode == COMPACTOR_PERIODIC ? 0 : every, every);
    return 0;
}

void stored_auto_compact_fini(struct stored *s)
{
    loop_timer_free(s->compactor_timer);
    s->compactor_timer = NULL;
    compactor_fini(&s->compactor);
}
