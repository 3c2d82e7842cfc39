/*
 * A connection that we dial: its socket, its queue, its end.
 *
 * Sending is nng's non-blocking call on the loop thread: a completion callback would cost two
 * thread switches per batch to say what is nearly always known already; only a batch that nng does
 * not take waits for its descriptor.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <nng/nng.h>
#include <nng/protocol/pipeline0/push.h>
#include <stdlib.h>
#include <string.h>
#include "lib/log/log.h"
#include "lib/loop/loop.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "raftd/peer/peers_internal.h"

enum {
    RECONNECT_MS_MIN = 10,
    RECONNECT_MS_MAX = 200,
    STABLE_MS = 1000, /* a connection that lived so long was no flapping */
    OUT_KEEP_BYTES = 4 << 20,
    HEADER_BYTES = 4 + 4 + 4 * 8,
    DIAL_TRY_MS = 1000, /* then another dialer, and with several URLs the next one */
};

static struct lane *find_lane(const struct peers *p, uint64_t lane_id, struct peer **ret_peer)
{
    for (size_t i = 0; i < p->count; i++) {
        for (int k = 0; k < PEER_LANE_COUNT; k++) {
            if (p->list[i]->lanes[k].lane_id == lane_id) {
                *ret_peer = p->list[i];
                return &p->list[i]->lanes[k];
            }
        }
    }
    return NULL;
}

/* What nng dials for a member's URL. NULL: not to be had. */
static char *dial_url(struct peers *p, const char *text)
{
    CLEANUP(freep) char *error = NULL;

    if (!peer_tls_is_secure(text))
        return peer_nng_url(text);
    if (peers_need_tls(p, &error) < 0) {
        log_error("cannot dial %s: %s", text, error);
        return NULL;
    }
    return peer_tls_dial(p->tls, text);
}

static void run_close_dialer(struct errand *e)
{
    nng_dialer_close((nng_dialer){.id = e->dialer});
}

/* Any earlier dialer of the lane is given up. */
static int lane_dial(struct lane *lane, const char *text)
{
    CLEANUP(freep) char *url = dial_url(lane->peers, text);
    int rv;

    if (lane->dialer.id != 0)
        peers_run_apart(&(struct errand){
            .peers = lane->peers, .run = run_close_dialer, .dialer = lane->dialer.id});
    lane->dialer.id = 0;
    lane->dialing_since_ms = loop_now_ms(lane->peers->loop);
    if (url == NULL)
        return -EPROTONOSUPPORT;
    rv = nng_dialer_create(&lane->dialer, lane->sock, url);
    if (rv == 0)
        rv = nng_dialer_set_ms(lane->dialer, NNG_OPT_RECONNMINT, RECONNECT_MS_MIN);
    if (rv == 0)
        rv = nng_dialer_set_ms(lane->dialer, NNG_OPT_RECONNMAXT, RECONNECT_MS_MAX);
    if (rv == 0)
        rv = nng_dialer_start(lane->dialer, NNG_FLAG_NONBLOCK);
    return rv == 0 ? 0 : peers_nng_errno(rv);
}

static void set_blocked(struct lane *lane, bool blocked)
{
    if (lane->blocked == blocked)
        return;
    lane->blocked = blocked;
    lane->blocked_since_ms = loop_now_ms(lane->peers->loop);
    loop_io_set(lane->sendable, blocked ? LOOP_READ : 0);
}

static void on_sendable(void *user, unsigned int events)
{
    struct lane *lane = user;

    set_blocked(lane, false);
    loop_hook_arm(lane->peers->flush);
}

int peers_lane_open(struct peers *p, struct peer *peer, enum peer_lane kind)
{
    struct lane *lane = &peer->lanes[kind];
    struct lane_ref *ref = xcalloc(1, sizeof(*ref));
    int rv, fd;

    *lane =
        (struct lane){.peers = p, .lane_id = ++p->last_lane_id, .peer_id = peer->id, .kind = kind};
    *ref = (struct lane_ref){.peers = p, .lane_id = lane->lane_id};
    rv = nng_push0_open(&lane->sock);
    if (rv != 0) {
        free(ref);
        return peers_nng_errno(rv);
    }
    lane->open = true;
    lane->ref = ref;
    rv = nng_socket_get_int(lane->sock, NNG_OPT_SENDFD, &fd);
    if (rv == 0)
        lane->sendable = loop_io_new(p->loop, "peer sendable", fd, on_sendable, lane);
    if (rv == 0)
        rv = nng_pipe_notify(lane->sock, NNG_PIPE_EV_ADD_POST, peers_on_pipe, ref);
    if (rv == 0)
        rv = nng_pipe_notify(lane->sock, NNG_PIPE_EV_REM_POST, peers_on_pipe, ref);
    if (rv != 0)
        return peers_nng_errno(rv);
    return lane_dial(lane, peer->urls.items[peer->url_at]);
}

void peers_lane_close(struct lane *lane)
{
    loop_io_free(lane->sendable); /* before its descriptor is gone */
    if (lane->open)
        peers_run_apart(&(struct errand){.peers = lane->peers,
                                         .run = peers_run_close_socket,
                                         .sock = lane->sock,
                                         .ref = lane->ref});
    buf_fini(&lane->out);
    *lane = (struct lane){0};
}

static void batch_begin(struct peers *p, struct lane *lane)
{
    struct peer_header h = p->self;

    h.to = lane->peer_id;
    peer_header_encode(&lane->out, &h);
}

/* With the lock, so that the connection is not taken down meanwhile: nng before 1.6 may keep one in
 * its list of ready connections that is being freed, and send on it. */
static bool hand_to_nng(struct peers *p, struct lane *lane, nng_msg *msg)
{
    bool taken;

    pthread_mutex_lock(&p->lock);
    taken = !lane->ref->ended && nng_sendmsg(lane->sock, msg, NNG_FLAG_NONBLOCK) == 0;
    pthread_mutex_unlock(&p->lock);
    return taken;
}

static void lane_send(struct peers *p, struct peer *peer, struct lane *lane)
{
    nng_msg *msg;

    if (!lane->up || lane->blocked || lane->out.len <= HEADER_BYTES)
        return;
    if (nng_msg_alloc(&msg, lane->out.len) != 0)
        return; /* stays queued; the next turn tries again */
    memcpy(nng_msg_body(msg), lane->out.data, lane->out.len);
    if (!hand_to_nng(p, lane, msg)) {
        nng_msg_free(msg);
        set_blocked(lane, true); /* or the connection ended, which is news to come */
        return;
    }
    peer->stats.bytes_sent += lane->out.len;
    buf_clear(&lane->out);
    buf_trim(&lane->out, OUT_KEEP_BYTES);
    batch_begin(p, lane);
    lane->overflowed = false;
}

void peers_lane_greet(struct peers *p, struct lane *lane)
{
    struct peer_hello hello = {.peer_urls = bytes_str(p->self_urls)};
    size_t start;

    buf_clear(&lane->out);
    batch_begin(p, lane);
    start = peer_frame_begin(&lane->out, PEER_HELLO);
    peer_hello_encode(&lane->out, &hello);
    peer_frame_end(&lane->out, start);
    loop_hook_arm(p->flush);
}

static void lane_set_up(struct peers *p, struct peer *peer, struct lane *lane, int pipe)
{
    lane->up = true;
    lane->up_since_ms = loop_now_ms(p->loop);
    lane->pipe = pipe;
    peers_lane_greet(p, lane);
    if (lane->kind == PEER_LANE_MAIN) {
        peer->stats.up = true;
        peer->stats.up_since_ms = loop_now_ms(p->loop);
        p->ops->on_up(p->user, peer->id);
    }
}

static void lane_set_down(struct peers *p, struct peer *peer, struct lane *lane)
{
    lane->up = false;
    lane->pipe = 0;
    buf_clear(&lane->out);
    set_blocked(lane, false);
    if (lane->kind == PEER_LANE_MAIN) {
        peer->stats.up = false;
        peer->stats.up_since_ms = 0;
        peer->stats.disconnects++;
        p->ops->on_down(p->user, peer->id);
    }
}

/* A socket has one connection in its life: the next one gets a socket of its own, see
 * hand_to_nng. */
static void lane_end(struct peers *p, struct peer *peer, struct lane *lane)
{
    uint32_t *backoff = &peer->backoff_ms[lane->kind];
    uint64_t now = loop_now_ms(p->loop);

    if (lane->up && now - lane->up_since_ms >= STABLE_MS)
        *backoff = 0;
    *backoff = MIN(MAX(*backoff * 2, (uint32_t)RECONNECT_MS_MIN), (uint32_t)RECONNECT_MS_MAX);
    lane->ended = true;
    lane->reopen_ms = now + *backoff;
    loop_timer_start(p->reopen, RECONNECT_MS_MIN, 0);
    if (lane->up)
        lane_set_down(p, peer, lane); /* last: who is told may remove the peer */
}

void peers_lane_on_pipe(struct peers *p, const struct pipe_event *ev)
{
    struct peer *peer;
    struct lane *lane = find_lane(p, ev->lane_id, &peer);

    if (lane == NULL)
        return;
    if (lane->ended)
        return; /* nng has dialled again by itself: with a socket that is given up */
    if (ev->added)
        lane_set_up(p, peer, lane, ev->pipe);
    else
        lane_end(p, peer, lane);
}

void peers_on_reopen(void *user)
{
    struct peers *p = user;
    uint64_t now = loop_now_ms(p->loop);

    for (size_t i = 0; i < p->count; i++) {
        struct peer *peer = p->list[i];

        for (int k = 0; k < PEER_LANE_COUNT; k++) {
            struct lane *lane = &peer->lanes[k];

            if (!lane->ended)
                continue;
            if (now < lane->reopen_ms) {
                loop_timer_start(p->reopen, RECONNECT_MS_MIN, 0);
                continue;
            }
            peers_lane_close(lane);
            if (peers_lane_open(p, peer, (enum peer_lane)k) != 0)
                log_warn("cannot dial %s", peer->urls.items[peer->url_at]);
        }
    }
}

void peers_on_flush(void *user)
{
    struct peers *p = user;

    for (size_t i = 0; i < p->count; i++) {
        for (int k = 0; k < PEER_LANE_COUNT; k++)
            lane_send(p, p->list[i], &p->list[i]->lanes[k]);
    }
}

struct buf *peers_begin(struct peers *p, uint64_t id, enum peer_lane kind, enum peer_type type)
{
    struct peer *peer = peers_find(p, id);
    struct lane *lane;

    assert(p->current == NULL);
    if (peer == NULL)
        return NULL;
    lane = &peer->lanes[kind];
    if (!lane->up || lane->out.len >= PEERS_QUEUE_BYTES_MAX) {
        peer->stats.frames_dropped++;
        if (lane->up && !lane->overflowed) {
            lane->overflowed = true;
            log_warn("the queue to member %016" PRIx64 " is full, messages are dropped", id);
        }
        return NULL;
    }
    p->current = lane;
    p->current_start = peer_frame_begin(&lane->out, type);
    return &lane->out;
}

void peers_end(struct peers *p)
{
    assert(p->current != NULL);
    peer_frame_end(&p->current->out, p->current_start);
    p->current = NULL;
    loop_hook_arm(p->flush);
}

/* nng 1.5.2 may not tell that a connection ended: its one thread that takes them down waits for ever
 * after one that was closed between two pieces of a long message, and what was sent then goes
 * nowhere. A member that stopped is not heard, so a connection is not made anew for that. */
static bool is_stuck(const struct peers *p, const struct peer *peer, const struct lane *lane)
{
    uint64_t now = loop_now_ms(p->loop);

    return lane->up && lane->blocked && now - lane->blocked_since_ms >= p->stuck_ms &&
           now - peer->stats.last_seen_ms < 2 * PEERS_PING_MS;
}

void peers_lane_check(struct peers *p, struct peer *peer, struct lane *lane)
{
    if (is_stuck(p, peer, lane)) {
        log_warn("a connection to member %016" PRIx64 " takes nothing: making another one",
                 peer->id);
        peers_inbox_lane_ended(p, lane->lane_id);
        return;
    }
    if (lane->up || lane->ended || loop_now_ms(p->loop) - lane->dialing_since_ms < DIAL_TRY_MS)
        return;
    if (lane->kind == PEER_LANE_MAIN)
        peer->url_at = (peer->url_at + 1) % peer->urls.count;
    if (lane_dial(lane, peer->urls.items[peer->url_at]) != 0)
        log_warn("cannot dial %s", peer->urls.items[peer->url_at]);
}
