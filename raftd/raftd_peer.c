/*
 * What other members say: raft messages into the core, the rest to its place.
 */
#include <errno.h>
#include <inttypes.h>
#include "lib/log/log.h"
#include "lib/util/macros.h"
#include "lib/wire/wire.h"
#include "raftd/raftd.h"

void raftd_send_raft_msg(struct raftd *r, const struct raft_msg *m)
{
    struct buf *b = peers_begin(r->peers, m->to, PEER_LANE_MAIN, PEER_RAFT);

    if (b == NULL) {
        raft_report_unreachable(r->raft, m->to);
        return;
    }
    peer_raft_msg_encode(b, m);
    peers_end(r->peers);
}

static void on_raft(struct raftd *r, const struct peer_header *h, const struct peer_frame *f)
{
    struct raft_msg m;

    if (r->raft == NULL)
        return;
    if (peer_raft_msg_decode(f->body, h, &m) != 0) {
        r->counters.nonsense++;
        return;
    }
    if (raft_step(r->raft, &m) != 0)
        r->counters.nonsense++;
    raft_msg_fini(&m);
    raftd_arm(r);
}

/* One that was away when it was removed does not know: it is told who the members are. */
static void tell_removed(struct raftd *r, uint64_t id, const struct url_list *urls)
{
    if (!peers_has(r->peers, id) && r->leaving_count < ARRAY_LEN(r->leaving) &&
        peers_set(r->peers, id, urls) == 0) {
        r->leaving[r->leaving_count].id = id;
        r->leaving[r->leaving_count++].at_ms = raftd_now_ms(r) + RAFTD_PEER_LINGER_MS;
    }
}

/* A member that joins hears from the leader before it has executed the entry that names it. */
static void on_hello(struct raftd *r, const struct peer_header *h, const struct peer_frame *f)
{
    const struct raftd_member *known = raftd_members_find(&r->members, h->from);
    struct peer_hello hello;
    struct url_list urls;

    if (r->phase != RAFTD_RUNNING || h->from == 0 || h->to != r->member_id ||
        peers_has(r->peers, h->from))
        return;
    if (peer_hello_decode(f->body, &hello) != 0) {
        r->counters.nonsense++;
        return;
    }
    url_list_split(hello.peer_urls, &urls);
    if (urls.count != 0 && known != NULL && known->removed)
        tell_removed(r, h->from, &urls);
    else if (urls.count != 0 && peers_set(r->peers, h->from, &urls) == 0)
        log_info("learned of member %016" PRIx64 " from its own message", h->from);
    url_list_fini(&urls);
}

static void on_frame(void *user, const struct peer_header *h, const struct peer_frame *f)
{
    struct raftd *r = user;
    struct peer_propose_failed failed;
    struct peer_hash hash;

    if (r->stopping)
        return;
    switch (f->type) {
    case PEER_RAFT:
        on_raft(r, h, f);
        break;
    case PEER_HELLO:
        on_hello(r, h, f);
        break;
    case PEER_PROPOSE:
        raftd_proposals_on_forwarded(r, h->from, f->body);
        break;
    case PEER_PROPOSE_FAILED:
        if (peer_propose_failed_decode(f->body, &failed) == 0)
            raftd_proposals_on_refused(r, &failed);
        else
            r->counters.nonsense++;
        break;
    case PEER_MEMBERS_QUERY:
        raftd_boot_on_query(r, h, f->body);
        break;
    case PEER_MEMBERS:
        raftd_boot_on_members(r, h, f->body);
        break;
    case PEER_SNAP_META:
    case PEER_SNAP_CHUNK:
    case PEER_SNAP_CANCEL:
    case PEER_SNAP_ACK:
    case PEER_SNAP_END:
        if (r->raft != NULL)
            raftd_snap_on_peer(r, h, f);
        break;
    case PEER_HASH:
        if (peer_hash_decode(f->body, &hash) == 0)
            raftd_hash_on_peer(r, h->from, &hash);
        else
            r->counters.nonsense++;
        break;
    case PEER_FORWARD:
        raftd_forward_on_peer(r, h->from, f->body);
        break;
    case PEER_PING: /* the transport's own */
    case PEER_PONG:
        break;
    case PEER_FORWARD_REPLY:
        raftd_forward_on_peer_reply(r, f->body);
        break;
    }
}

static void on_up(void *user, uint64_t id)
{
    struct raftd *r = user;

    const struct raftd_member *known = raftd_members_find(&r->members, id);

    log_debug("connected to member %016" PRIx64, id);
    if (r->raft == NULL || r->stopping)
        return;
    if (known != NULL && known->removed)
        raftd_boot_tell_members(r, id);
    raftd_proposals_flush(r);
}

static void on_down(void *user, uint64_t id)
{
    struct raftd *r = user;

    log_debug("lost the connection to member %016" PRIx64, id);
    if (r->raft == NULL || r->stopping)
        return;
    raft_report_unreachable(r->raft, id);
    raftd_snap_on_peer_down(r, id);
    raftd_arm(r);
}

const struct peers_ops raftd_peers_ops = {.on_frame = on_frame, .on_up = on_up, .on_down = on_down};
