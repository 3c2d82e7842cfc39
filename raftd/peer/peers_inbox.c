/*
 * What comes: the pull socket, the messages it receives, and nng's news of connections.
 *
 * nng's callbacks only append to the inbox under its lock. A lane is named there by number, never
 * by pointer, because an event may arrive after the lane is gone.
 */
#include <errno.h>
#include <inttypes.h>
#include <nng/nng.h>
#include <nng/protocol/pipeline0/pull.h>
#include <stdlib.h>
#include "lib/log/log.h"
#include "lib/loop/loop.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "raftd/peer/peers_internal.h"

enum {
    INBOX_BYTES_MAX = 64 << 20, /* then nothing more is received until the loop has caught up */
};

#define GROW(array, count, cap)                                                                    \
    do {                                                                                           \
        if ((count) == (cap)) {                                                                    \
            (cap) = (cap) == 0 ? 16 : 2 * (cap);                                                   \
            (array) = xreallocarray((array), (cap), sizeof(*(array)));                             \
        }                                                                                          \
    } while (0)

static void on_received(void *arg)
{
    struct peers *p = arg;
    int rv = nng_aio_result(p->pull_aio);
    nng_msg *msg;
    bool stalled;

    if (rv == NNG_ECANCELED || rv == NNG_ECLOSED)
        return;
    if (rv != 0) {
        nng_recv_aio(p->pull, p->pull_aio);
        return;
    }
    msg = nng_aio_get_msg(p->pull_aio);
    pthread_mutex_lock(&p->lock);
    if (p->stopping) {
        pthread_mutex_unlock(&p->lock);
        nng_msg_free(msg);
        return;
    }
    GROW(p->inbox, p->inbox_count, p->inbox_cap);
    p->inbox[p->inbox_count++] = msg;
    p->inbox_bytes += nng_msg_len(msg);
    stalled = p->inbox_stalled = p->inbox_bytes >= INBOX_BYTES_MAX;
    loop_wake_send(p->wake);
    pthread_mutex_unlock(&p->lock);
    if (!stalled)
        nng_recv_aio(p->pull, p->pull_aio);
}

/* With the lock. */
static void tell_event(struct peers *p, const struct pipe_event *ev)
{
    GROW(p->events, p->event_count, p->event_cap);
    p->events[p->event_count++] = *ev;
    loop_wake_send(p->wake);
}

void peers_on_pipe(nng_pipe pipe, nng_pipe_ev ev, void *arg)
{
    struct lane_ref *ref = arg;
    struct peers *p = ref->peers;

    pthread_mutex_lock(&p->lock);
    if (ev == NNG_PIPE_EV_REM_POST)
        ref->ended = true;
    if (!p->stopping)
        tell_event(p, &(struct pipe_event){.lane_id = ref->lane_id,
                                           .pipe = nng_pipe_id(pipe),
                                           .listener = nng_pipe_listener(pipe).id,
                                           .added = ev == NNG_PIPE_EV_ADD_POST});
    pthread_mutex_unlock(&p->lock);
}

void peers_inbox_lane_ended(struct peers *p, uint64_t lane_id)
{
    pthread_mutex_lock(&p->lock);
    tell_event(p, &(struct pipe_event){.lane_id = lane_id});
    pthread_mutex_unlock(&p->lock);
}

static void inbound_seen(struct peer *peer, int pipe)
{
    int *slot = &peer->inbound[0];

    for (int k = 0; k < PEER_LANE_COUNT; k++) {
        if (peer->inbound[k] == pipe)
            return;
        if (peer->inbound[k] == 0)
            slot = &peer->inbound[k];
    }
    *slot = pipe;
}

static void inbound_ended(struct peers *p, int pipe)
{
    for (size_t i = 0; i < p->count; i++) {
        for (int k = 0; k < PEER_LANE_COUNT; k++) {
            if (p->list[i]->inbound[k] == pipe)
                p->list[i]->inbound[k] = 0;
        }
    }
}

static void on_inbound_event(struct peers *p, const struct pipe_event *ev)
{
    if (ev->added)
        peers_listener_answered(p, ev->listener);
    else
        inbound_ended(p, ev->pipe);
}

/* The rest of the message is dropped, and so is every other one like it. The connection stays: nng
 * 1.5.2 never takes down another one after one that it closed between the head and the rest of a
 * message, as its only thread for that waits for ever then. */
static void refuse(struct peers *p, const struct peer_header *h, const char *why, uint64_t *counter)
{
    struct peer *peer = h != NULL ? peers_find(p, h->from) : NULL;
    bool *logged = peer != NULL ? &peer->refusal_logged : &p->stranger_logged;

    (*counter)++;
    if (!*logged) {
        *logged = true;
        if (h != NULL)
            log_warn("refused messages of member %016" PRIx64 " of cluster %016" PRIx64
                     " to member %016" PRIx64 ": %s",
                     h->from, h->cluster_id, h->to, why);
        else
            log_warn("refused messages at the peer port: %s", why);
    }
}

static bool is_ours(const struct peers *p, const struct peer_header *h)
{
    return p->self.cluster_id != 0 && h->cluster_id == p->self.cluster_id;
}

static void on_batch(struct peers *p, nng_msg *msg)
{
    struct bytes body = bytes_of(nng_msg_body(msg), nng_msg_len(msg));
    struct wire_reader r = wire_reader(body);
    struct peer_header h;
    struct peer *peer;
    bool ours;
    int e = peer_header_decode(&r, &h);

    if (e == -EPROTO) {
        refuse(p, NULL, "another protocol version", &p->totals.refused_version);
        return;
    }
    if (e != 0) {
        refuse(p, NULL, "not a message of a member", &p->totals.malformed);
        return;
    }
    ours = is_ours(p, &h);
    peer = peers_find(p, h.from);
    if (peer != NULL && ours) {
        peer->stats.last_seen_ms = loop_now_ms(p->loop);
        peer->stats.bytes_received += body.len;
        inbound_seen(peer, nng_pipe_id(nng_msg_get_pipe(msg)));
    }
    while (r.pos != r.end) {
        struct peer_frame f;

        if (peer_frame_read(&r, &f) != 0) {
            refuse(p, &h, "malformed", &p->totals.malformed);
            return;
        }
        ours = is_ours(p, &h); /* the frame before may have told us who we are */
        if (f.type == PEER_HELLO && !ours)
            continue; /* what follows decides */
        if (f.type != PEER_MEMBERS_QUERY && f.type != PEER_MEMBERS && f.type != PEER_HELLO) {
            if (p->self.cluster_id == 0)
                continue; /* we are asking who we are: they are told soon, and send it again */
            if (!ours) {
                refuse(p, &h, "cluster id mismatch", &p->totals.refused_cluster);
                return;
            }
            if (h.to != p->self.from || h.from == 0 || h.from == p->self.from) {
                refuse(p, &h, "not for this member", &p->totals.refused_receiver);
                return;
            }
        }
        if (f.type == PEER_PING || f.type == PEER_PONG)
            peers_on_ping(p, h.from, &f);
        else
            p->ops->on_frame(p->user, &h, &f);
    }
}

void peers_on_wake(void *user)
{
    struct peers *p = user;
    nng_msg **msgs;
    struct pipe_event *events;
    size_t msg_count, event_count;
    bool stalled;

    pthread_mutex_lock(&p->lock);
    msgs = TAKE(p->inbox);
    msg_count = p->inbox_count;
    events = TAKE(p->events);
    event_count = p->event_count;
    stalled = p->inbox_stalled;
    p->inbox_count = p->inbox_cap = p->inbox_bytes = 0;
    p->event_count = p->event_cap = 0;
    p->inbox_stalled = false;
    pthread_mutex_unlock(&p->lock);

    for (size_t i = 0; i < event_count; i++)
        peers_lane_on_pipe(p, &events[i]);
    for (size_t i = 0; i < msg_count; i++) {
        on_batch(p, msgs[i]);
        nng_msg_free(msgs[i]);
    }
    for (size_t i = 0; i < event_count; i++) { /* after what came over them */
        if (events[i].lane_id == 0)
            on_inbound_event(p, &events[i]);
    }
    free(msgs);
    free(events);
    if (stalled)
        nng_recv_aio(p->pull, p->pull_aio);
}

int peers_inbox_open(struct peers *p, char **ret_error)
{
    int rv = nng_pull0_open(&p->pull);

    if (rv == 0)
        p->pull_open = true;
    if (rv == 0)
        rv = nng_socket_set_size(p->pull, NNG_OPT_RECVMAXSZ, PEER_BATCH_BYTES_MAX);
    if (rv == 0)
        rv = nng_pipe_notify(p->pull, NNG_PIPE_EV_ADD_POST, peers_on_pipe, &p->pull_ref);
    if (rv == 0)
        rv = nng_pipe_notify(p->pull, NNG_PIPE_EV_REM_POST, peers_on_pipe, &p->pull_ref);
    if (rv == 0)
        rv = nng_aio_alloc(&p->pull_aio, on_received, p);
    if (rv != 0) {
        *ret_error = xasprintf("peer socket: %s", nng_strerror(rv));
        return peers_nng_errno(rv);
    }
    return 0;
}

void peers_inbox_start(struct peers *p)
{
    nng_recv_aio(p->pull, p->pull_aio);
}

void peers_inbox_close(struct peers *p)
{
    if (p->pull_open)
        peers_run_apart(&(struct errand){
            .peers = p, .run = peers_run_close_socket, .sock = p->pull, .aio = p->pull_aio});
}

void peers_inbox_free(struct peers *p)
{
    for (size_t i = 0; i < p->inbox_count; i++)
        nng_msg_free(p->inbox[i]);
    free(p->inbox);
    free(p->events);
}
