/*
 * Peer transport over nng push and pull sockets.
 *
 * State of one connection ("lane") on the loop: down -> up on nng's pipe event, then at most one
 * batch is handed to nng at a time, and the rest gathers in `out`. nng's callbacks only append to
 * the inbox under its lock. A lane is named there by number, never by pointer, because an event
 * may arrive after the lane is gone.
 */
#include "raftd/peer/peers.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <nng/nng.h>
#include <nng/protocol/pipeline0/pull.h>
#include <nng/protocol/pipeline0/push.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "lib/log/log.h"
#include "lib/loop/loop.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"

enum {
    INBOX_BYTES_MAX = 64 << 20, /* then nothing more is received until the loop has caught up */
    RECONNECT_MS_MIN = 10,
    RECONNECT_MS_MAX = 200,
    OUT_KEEP_BYTES = 4 << 20,
    HEADER_BYTES = 4 + 4 + 4 * 8,
    URL_TRY_MS = 2000, /* with several URLs: how long one is tried before the next */
};

/* Told to nng as callback argument; freed with the transport, after all sockets are closed. */
struct lane_ref {
    struct peers *peers;
    uint64_t lane_id;
    struct lane_ref *next;
};

struct lane {
    struct peers *peers;
    uint64_t lane_id;
    uint64_t peer_id;
    enum peer_lane kind;
    nng_socket sock;
    nng_dialer dialer;
    nng_aio *aio;
    bool open, up, sending, overflowed;
    int pipe;
    struct buf out; /* while up: begins with a batch header */
    size_t sending_bytes;
};

struct peer {
    uint64_t id;
    struct url_list urls;
    size_t url_at;
    uint64_t dialing_since_ms;
    struct lane lanes[PEER_LANE_COUNT];
    struct peer_stats stats;
    bool refusal_logged;
};

struct pipe_event {
    uint64_t lane_id;
    int pipe;
    bool added;
};

struct peers {
    struct loop *loop;
    struct loop_wake *wake;
    struct loop_hook *flush;
    struct loop_timer *rotate;
    const struct peers_ops *ops;
    void *user;
    struct peer_header self; /* from, cluster, generation */
    char *self_urls;
    struct peer *list[PEERS_MAX];
    size_t count;
    uint64_t last_lane_id;
    struct lane_ref *refs;
    struct lane *current; /* between begin and end */
    size_t current_start;
    struct peers_totals totals;
    bool stranger_logged;

    nng_socket pull;
    bool pull_open;
    nng_aio *pull_aio;

    pthread_mutex_t lock; /* what follows; also touched by nng's threads */
    nng_msg **inbox;
    size_t inbox_count, inbox_cap, inbox_bytes;
    bool inbox_stalled;
    struct pipe_event *events;
    size_t event_count, event_cap;
    uint64_t *sent; /* lanes whose batch was taken (or failed) */
    size_t sent_count, sent_cap;
};

static int nng_errno(int rv)
{
    switch (rv) {
    case NNG_EADDRINUSE:
        return -EADDRINUSE;
    case NNG_EADDRINVAL:
        return -EADDRNOTAVAIL;
    case NNG_EPERM:
        return -EACCES;
    case NNG_ENOMEM:
        return -ENOMEM;
    case NNG_ENOFILES:
        return -EMFILE;
    case NNG_ENOTSUP:
        return -EPROTONOSUPPORT;
    default:
        return -EIO;
    }
}

#define GROW(array, count, cap)                                                                    \
    do {                                                                                           \
        if ((count) == (cap)) {                                                                    \
            (cap) = (cap) == 0 ? 16 : 2 * (cap);                                                   \
            (array) = xreallocarray((array), (cap), sizeof(*(array)));                             \
        }                                                                                          \
    } while (0)

/* ---- nng's threads ---- */

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
    GROW(p->inbox, p->inbox_count, p->inbox_cap);
    p->inbox[p->inbox_count++] = msg;
    p->inbox_bytes += nng_msg_len(msg);
    stalled = p->inbox_stalled = p->inbox_bytes >= INBOX_BYTES_MAX;
    pthread_mutex_unlock(&p->lock);
    if (!stalled)
        nng_recv_aio(p->pull, p->pull_aio);
    loop_wake_send(p->wake);
}

static void on_sent(void *arg)
{
    struct lane *lane = arg;
    struct peers *p = lane->peers;

    if (nng_aio_result(lane->aio) != 0)
        nng_msg_free(nng_aio_get_msg(lane->aio));
    pthread_mutex_lock(&p->lock);
    GROW(p->sent, p->sent_count, p->sent_cap);
    p->sent[p->sent_count++] = lane->lane_id;
    pthread_mutex_unlock(&p->lock);
    loop_wake_send(p->wake);
}

static void on_pipe(nng_pipe pipe, nng_pipe_ev ev, void *arg)
{
    struct lane_ref *ref = arg;
    struct peers *p = ref->peers;

    pthread_mutex_lock(&p->lock);
    GROW(p->events, p->event_count, p->event_cap);
    p->events[p->event_count++] = (struct pipe_event){.lane_id = ref->lane_id,
                                                      .pipe = nng_pipe_id(pipe),
                                                      .added = ev == NNG_PIPE_EV_ADD_POST};
    pthread_mutex_unlock(&p->lock);
    loop_wake_send(p->wake);
}

/* ---- lanes ---- */

static struct peer *find_peer(const struct peers *p, uint64_t id)
{
    for (size_t i = 0; i < p->count; i++) {
        if (p->list[i]->id == id)
            return p->list[i];
    }
    return NULL;
}

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

static int lane_dial(struct lane *lane, const char *text)
{
    CLEANUP(freep) char *url = peer_nng_url(text);
    int rv;

    if (url == NULL)
        return -EPROTONOSUPPORT;
    rv = nng_dialer_create(&lane->dialer, lane->sock, url);
    if (rv == 0)
        rv = nng_dialer_set_ms(lane->dialer, NNG_OPT_RECONNMINT, RECONNECT_MS_MIN);
    if (rv == 0)
        rv = nng_dialer_set_ms(lane->dialer, NNG_OPT_RECONNMAXT, RECONNECT_MS_MAX);
    if (rv == 0)
        rv = nng_dialer_start(lane->dialer, NNG_FLAG_NONBLOCK);
    return rv == 0 ? 0 : nng_errno(rv);
}

static int lane_open(struct peers *p, struct peer *peer, enum peer_lane kind)
{
    struct lane *lane = &peer->lanes[kind];
    struct lane_ref *ref = xcalloc(1, sizeof(*ref));
    int rv;

    *lane = (struct lane){
        .peers = p, .lane_id = ++p->last_lane_id, .peer_id = peer->id, .kind = kind};
    *ref = (struct lane_ref){.peers = p, .lane_id = lane->lane_id, .next = p->refs};
    p->refs = ref;
    rv = nng_push0_open(&lane->sock);
    if (rv != 0)
        return nng_errno(rv);
    lane->open = true;
    rv = nng_aio_alloc(&lane->aio, on_sent, lane);
    if (rv == 0)
        rv = nng_pipe_notify(lane->sock, NNG_PIPE_EV_ADD_POST, on_pipe, ref);
    if (rv == 0)
        rv = nng_pipe_notify(lane->sock, NNG_PIPE_EV_REM_POST, on_pipe, ref);
    if (rv != 0)
        return nng_errno(rv);
    return lane_dial(lane, peer->urls.items[peer->url_at]);
}

static void lane_close(struct lane *lane)
{
    if (lane->open)
        nng_close(lane->sock);
    if (lane->aio != NULL) {
        nng_aio_stop(lane->aio);
        nng_aio_free(lane->aio);
    }
    buf_fini(&lane->out);
    *lane = (struct lane){0};
}

static void peer_close(struct peer *peer)
{
    for (int k = 0; k < PEER_LANE_COUNT; k++)
        lane_close(&peer->lanes[k]);
    url_list_fini(&peer->urls);
    free(peer);
}

static void batch_begin(struct peers *p, struct lane *lane)
{
    struct peer_header h = p->self;

    h.to = lane->peer_id;
    peer_header_encode(&lane->out, &h);
}

static void lane_send(struct peers *p, struct peer *peer, struct lane *lane)
{
    nng_msg *msg;

    if (!lane->up || lane->sending || lane->out.len <= HEADER_BYTES)
        return;
    if (nng_msg_alloc(&msg, 0) != 0)
        return; /* stays queued; the next turn tries again */
    if (nng_msg_append(msg, lane->out.data, lane->out.len) != 0) {
        nng_msg_free(msg);
        return;
    }
    peer->stats.bytes_sent += lane->out.len;
    lane->sending_bytes = lane->out.len;
    buf_clear(&lane->out);
    buf_trim(&lane->out, OUT_KEEP_BYTES);
    batch_begin(p, lane);
    lane->sending = true;
    lane->overflowed = false;
    nng_aio_set_msg(lane->aio, msg);
    nng_send_aio(lane->sock, lane->aio);
}

static void lane_greet(struct peers *p, struct lane *lane)
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
    lane->pipe = pipe;
    lane_greet(p, lane);
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
    if (lane->sending)
        nng_aio_cancel(lane->aio); /* not to be sent to a successor ahead of its hello */
    if (lane->kind == PEER_LANE_MAIN) {
        peer->stats.up = false;
        peer->stats.up_since_ms = 0;
        peer->dialing_since_ms = loop_now_ms(p->loop);
        p->ops->on_down(p->user, peer->id);
    }
}

static void on_pipe_event(struct peers *p, const struct pipe_event *ev)
{
    struct peer *peer;
    struct lane *lane = find_lane(p, ev->lane_id, &peer);

    if (lane == NULL)
        return;
    if (ev->added) {
        if (lane->up) /* the old pipe's end is still to be told */
            lane_set_down(p, peer, lane);
        lane_set_up(p, peer, lane, ev->pipe);
    } else if (lane->up && lane->pipe == ev->pipe) {
        lane_set_down(p, peer, lane);
    }
}

/* ---- receiving ---- */

static void refuse(struct peers *p, nng_msg *msg, const struct peer_header *h, const char *why,
                   uint64_t *counter)
{
    struct peer *peer = h != NULL ? find_peer(p, h->from) : NULL;
    bool *logged = peer != NULL ? &peer->refusal_logged : &p->stranger_logged;

    (*counter)++;
    if (!*logged) {
        *logged = true;
        if (h != NULL)
            log_warn("refused messages of member %016" PRIx64 " of cluster %016" PRIx64
                     " to member %016" PRIx64 ": %s",
                     h->from, h->cluster_id, h->to, why);
        else
            log_warn("refused a connection to the peer port: %s", why);
    }
    nng_pipe_close(nng_msg_get_pipe(msg));
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
        refuse(p, msg, NULL, "another protocol version", &p->totals.refused_version);
        return;
    }
    if (e != 0) {
        refuse(p, msg, NULL, "not a message of a member", &p->totals.malformed);
        return;
    }
    ours = p->self.cluster_id != 0 && h.cluster_id == p->self.cluster_id;
    peer = find_peer(p, h.from);
    if (peer != NULL && ours) {
        peer->stats.last_seen_ms = loop_now_ms(p->loop);
        peer->stats.bytes_received += body.len;
    }
    while (r.pos != r.end) {
        struct peer_frame f;

        if (peer_frame_read(&r, &f) != 0) {
            refuse(p, msg, &h, "malformed", &p->totals.malformed);
            return;
        }
        if (f.type == PEER_HELLO && !ours)
            continue; /* what follows decides */
        if (f.type != PEER_MEMBERS_QUERY && f.type != PEER_MEMBERS && f.type != PEER_HELLO) {
            if (!ours) {
                refuse(p, msg, &h, "cluster id mismatch", &p->totals.refused_cluster);
                return;
            }
            if (h.to != p->self.from || h.from == 0 || h.from == p->self.from) {
                refuse(p, msg, &h, "not for this member", &p->totals.refused_receiver);
                return;
            }
        }
        p->ops->on_frame(p->user, &h, &f);
    }
}

static void on_wake(void *user)
{
    struct peers *p = user;
    nng_msg **msgs;
    struct pipe_event *events;
    uint64_t *sent;
    size_t msg_count, event_count, sent_count;
    bool stalled;

    pthread_mutex_lock(&p->lock);
    msgs = TAKE(p->inbox);
    msg_count = p->inbox_count;
    events = TAKE(p->events);
    event_count = p->event_count;
    sent = TAKE(p->sent);
    sent_count = p->sent_count;
    stalled = p->inbox_stalled;
    p->inbox_count = p->inbox_cap = p->inbox_bytes = 0;
    p->event_count = p->event_cap = 0;
    p->sent_count = p->sent_cap = 0;
    p->inbox_stalled = false;
    pthread_mutex_unlock(&p->lock);

    for (size_t i = 0; i < event_count; i++)
        on_pipe_event(p, &events[i]);
    for (size_t i = 0; i < sent_count; i++) {
        struct peer *peer;
        struct lane *lane = find_lane(p, sent[i], &peer);

        if (lane != NULL) {
            lane->sending = false;
            lane->sending_bytes = 0;
            loop_hook_arm(p->flush);
        }
    }
    for (size_t i = 0; i < msg_count; i++) {
        on_batch(p, msgs[i]);
        nng_msg_free(msgs[i]);
    }
    free(msgs);
    free(events);
    free(sent);
    if (stalled)
        nng_recv_aio(p->pull, p->pull_aio);
}

/* ---- sending ---- */

static void on_flush(void *user)
{
    struct peers *p = user;

    for (size_t i = 0; i < p->count; i++) {
        for (int k = 0; k < PEER_LANE_COUNT; k++)
            lane_send(p, p->list[i], &p->list[i]->lanes[k]);
    }
}

struct buf *peers_begin(struct peers *p, uint64_t id, enum peer_lane kind, enum peer_type type)
{
    struct peer *peer = find_peer(p, id);
    struct lane *lane;

    assert(p->current == NULL);
    if (peer == NULL)
        return NULL;
    lane = &peer->lanes[kind];
    if (!lane->up || lane->out.len + lane->sending_bytes >= PEERS_QUEUE_BYTES_MAX) {
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

/* ---- members ---- */

/* A member with several URLs that does not answer at one of them is tried at the next. */
static void on_rotate(void *user)
{
    struct peers *p = user;
    uint64_t now = loop_now_ms(p->loop);

    for (size_t i = 0; i < p->count; i++) {
        struct peer *peer = p->list[i];

        if (peer->urls.count < 2 || peer->stats.up || now - peer->dialing_since_ms < URL_TRY_MS)
            continue;
        peer->url_at = (peer->url_at + 1) % peer->urls.count;
        peer->dialing_since_ms = now;
        for (int k = 0; k < PEER_LANE_COUNT; k++) {
            lane_close(&peer->lanes[k]);
            if (lane_open(p, peer, (enum peer_lane)k) != 0)
                log_warn("cannot dial %s", peer->urls.items[peer->url_at]);
        }
    }
}

int peers_set(struct peers *p, uint64_t id, const struct url_list *urls)
{
    struct peer *peer = find_peer(p, id);
    int r = 0;

    assert(id != 0);
    if (urls->count == 0)
        return -EINVAL;
    if (peer != NULL) {
        if (url_list_eq(&peer->urls, urls))
            return 0;
        peers_remove(p, id);
    }
    if (p->count == PEERS_MAX)
        return -ENOSPC;
    peer = xcalloc(1, sizeof(*peer));
    peer->id = id;
    peer->dialing_since_ms = loop_now_ms(p->loop);
    for (size_t i = 0; i < urls->count; i++)
        url_list_add(&peer->urls, bytes_str(urls->items[i]));
    p->list[p->count++] = peer;
    for (int k = 0; k < PEER_LANE_COUNT && r == 0; k++)
        r = lane_open(p, peer, (enum peer_lane)k);
    if (r != 0)
        peers_remove(p, id);
    return r;
}

void peers_remove(struct peers *p, uint64_t id)
{
    for (size_t i = 0; i < p->count; i++) {
        if (p->list[i]->id == id) {
            bool was_up = p->list[i]->stats.up;

            peer_close(p->list[i]);
            p->list[i] = p->list[--p->count];
            if (was_up)
                p->ops->on_down(p->user, id);
            return;
        }
    }
}

bool peers_has(const struct peers *p, uint64_t id)
{
    return find_peer(p, id) != NULL;
}

bool peers_is_up(const struct peers *p, uint64_t id)
{
    const struct peer *peer = find_peer(p, id);

    return peer != NULL && peer->stats.up;
}

bool peers_get_stats(const struct peers *p, uint64_t id, struct peer_stats *ret)
{
    const struct peer *peer = find_peer(p, id);

    if (peer != NULL)
        *ret = peer->stats;
    return peer != NULL;
}

void peers_get_totals(const struct peers *p, struct peers_totals *ret)
{
    *ret = p->totals;
}

void peers_set_identity(struct peers *p, uint64_t cluster_id, uint64_t member_id)
{
    p->self.cluster_id = cluster_id;
    p->self.from = member_id;
    for (size_t i = 0; i < p->count; i++) {
        for (int k = 0; k < PEER_LANE_COUNT; k++) {
            struct lane *lane = &p->list[i]->lanes[k];

            if (lane->up) /* what is queued bears the old identity */
                lane_greet(p, lane);
        }
    }
}

/* ---- life ---- */

static int listen_all(struct peers *p, const struct url_list *urls, char **ret_error)
{
    int rv = nng_pull0_open(&p->pull);

    if (rv == 0)
        p->pull_open = true;
    if (rv == 0)
        rv = nng_socket_set_size(p->pull, NNG_OPT_RECVMAXSZ, PEER_BATCH_BYTES_MAX);
    if (rv == 0)
        rv = nng_aio_alloc(&p->pull_aio, on_received, p);
    if (rv != 0) {
        *ret_error = xasprintf("peer socket: %s", nng_strerror(rv));
        return nng_errno(rv);
    }
    for (size_t i = 0; i < urls->count; i++) {
        CLEANUP(freep) char *url = peer_nng_url(urls->items[i]);

        if (url == NULL) {
            *ret_error = xasprintf("cannot listen on %s: scheme not supported for peers",
                                   urls->items[i]);
            return -EPROTONOSUPPORT;
        }
        rv = nng_listen(p->pull, url, NULL, 0);
        if (rv != 0) {
            *ret_error = xasprintf("cannot listen on %s: %s", urls->items[i], nng_strerror(rv));
            return nng_errno(rv);
        }
    }
    nng_recv_aio(p->pull, p->pull_aio);
    return 0;
}

int peers_start(const struct peers_args *args, struct peers **ret, char **ret_error)
{
    struct peers *p = xcalloc(1, sizeof(*p));
    int r;

    p->loop = args->loop;
    p->ops = args->ops;
    p->user = args->user;
    p->self = (struct peer_header){
        .cluster_id = args->cluster_id, .from = args->member_id, .generation = args->generation};
    p->self_urls = xstrdup(args->self_urls);
    pthread_mutex_init(&p->lock, NULL);
    p->wake = loop_wake_new(p->loop, "peers", on_wake, p);
    p->flush = loop_hook_new(p->loop, "peers_flush", LOOP_PHASE_FLUSH, on_flush, p);
    p->rotate = loop_timer_new(p->loop, "peers_rotate", on_rotate, p);
    loop_timer_start(p->rotate, URL_TRY_MS, URL_TRY_MS);
    r = listen_all(p, args->listen_urls, ret_error);
    if (r != 0) {
        peers_stop(p);
        return r;
    }
    *ret = p;
    return 0;
}

void peers_stop(struct peers *p)
{
    if (p == NULL)
        return;
    if (p->pull_open)
        nng_close(p->pull);
    if (p->pull_aio != NULL) {
        nng_aio_stop(p->pull_aio);
        nng_aio_free(p->pull_aio);
    }
    for (size_t i = 0; i < p->count; i++)
        peer_close(p->list[i]);
    while (p->refs != NULL) {
        struct lane_ref *ref = p->refs;

        p->refs = ref->next;
        free(ref);
    }
    for (size_t i = 0; i < p->inbox_count; i++)
        nng_msg_free(p->inbox[i]);
    free(p->inbox);
    free(p->events);
    free(p->sent);
    loop_timer_free(p->rotate);
    loop_hook_free(p->flush);
    loop_wake_free(p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p->self_urls);
    free(p);
}
