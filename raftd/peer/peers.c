/*
 * Peer transport over nng push and pull sockets.
 *
 * State of one connection ("lane") on the loop: down -> up on nng's pipe event, then at most one
 * batch is with nng at a time, and the rest gathers in `out`. Sending is nng's non-blocking call on
 * the loop thread: a completion callback would cost two thread switches per batch to say what is
 * nearly always known already; only a batch that nng does not take waits for its descriptor.
 * nng's callbacks only append to the inbox under its lock. A lane is named there by number, never
 * by pointer, because an event may arrive after the lane is gone.
 *
 * Silenced: nng before 1.6 takes a connection that ends with EPIPE while it is made for the end of
 * its own dialer or listener, which then does nothing any more (nng's issue 1518). So a lane that
 * stays down gets a new dialer. A listener in that state still greets, so its callers believe to be
 * connected and are never heard. So when a peer that we reach does not reach us, we dial our own
 * listeners, and the one that gives us no connection is replaced.
 *
 * Some of nng's calls may block for ever (nng_close, when the other side closes too). They run in
 * threads of their own, "apart"; what such a thread never gives back is left to the process.
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
#include <sys/stat.h>
#include "lib/log/log.h"
#include "lib/loop/loop.h"
#include "lib/util/leak_check.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"

enum {
    INBOX_BYTES_MAX = 64 << 20, /* then nothing more is received until the loop has caught up */
    RECONNECT_MS_MIN = 10,
    RECONNECT_MS_MAX = 200,
    STABLE_MS = 1000, /* a connection that lived so long was no flapping */
    OUT_KEEP_BYTES = 4 << 20,
    HEADER_BYTES = 4 + 4 + 4 * 8,
    CHECK_MS = 500,
    PING_MS = 2000,
    ROUND_TRIP_FIRST_NS = 100000, /* etcd's buckets: 0.0001 s, 16 of them */
    ROUND_TRIP_BUCKETS = 16,
    PROBE_MS = 1000,
    DIAL_TRY_MS = 1000, /* then another dialer, and with several URLs the next one */
    ONE_WAY_MS = 2000,  /* we reach a peer that long, and it does not reach us */
    STOP_WAIT_MS = 500,
};

/* Told to nng as callback argument; belongs to the lane, at the end to the thread that closes its
 * socket. */
struct lane_ref {
    struct peers *peers;
    uint64_t lane_id;
    bool ended; /* under the lock: its connection is gone, and nothing may be sent any more */
};

struct lane {
    struct peers *peers;
    uint64_t lane_id;
    uint64_t peer_id;
    enum peer_lane kind;
    nng_socket sock;
    nng_dialer dialer;
    struct loop_io *sendable;
    struct lane_ref *ref;
    bool open, up, overflowed;
    bool ended; /* to be opened anew at reopen_ms */
    uint64_t up_since_ms, reopen_ms;
    bool blocked; /* nng takes no batch now */
    int pipe;
    uint64_t dialing_since_ms;
    struct buf out; /* while up: begins with a batch header */
};

struct peer {
    uint64_t id;
    struct url_list urls;
    size_t url_at;
    struct lane lanes[PEER_LANE_COUNT];
    uint32_t backoff_ms[PEER_LANE_COUNT];
    int inbound[PEER_LANE_COUNT]; /* connections it made to us; 0: none */
    uint64_t one_way_since_ms;    /* we reach it, it does not (fully) reach us; 0: not so */
    struct peer_stats stats;
    bool refusal_logged;
};

struct listener {
    char *url;     /* in nng's words */
    bool relayed;  /* a private socket behind the TLS relay */
    uint32_t id;   /* 0: none */
    bool renewing; /* under the lock, as id */
    bool probing;
    nng_socket probe;
};

struct pipe_event {
    uint64_t lane_id; /* 0: of the pull socket */
    int pipe;
    uint32_t listener; /* lane_id 0: the pipe's */
    bool added;
};

struct peers {
    struct loop *loop;
    struct loop_wake *wake;
    struct loop_hook *flush;
    struct loop_timer *check;
    const struct peers_ops *ops;
    void *user;
    const struct peer_tls_conf *tls_conf;
    const char *run_dir;
    struct peer_tls *tls; /* NULL: no https:// URL so far */
    struct peer_header self; /* from, cluster, generation */
    char *self_urls;
    struct peer *list[PEERS_MAX];
    size_t count;
    uint64_t last_lane_id;
    struct loop_timer *reopen;
    struct lane *current; /* between begin and end */
    size_t current_start;
    struct peers_totals totals;
    bool stranger_logged;

    nng_socket pull;
    bool pull_open;
    nng_aio *pull_aio;
    struct lane_ref pull_ref;
    struct listener *listeners;
    size_t listener_count;
    struct loop_timer *probe_end;
    uint64_t last_probe_ms, last_ping_ms;

    pthread_mutex_t lock; /* what follows; also touched by nng's threads */
    pthread_cond_t apart_ended;
    size_t apart;  /* threads */
    bool stopping; /* nobody may wake the loop */
    nng_msg **inbox;
    size_t inbox_count, inbox_cap, inbox_bytes;
    bool inbox_stalled;
    struct pipe_event *events;
    size_t event_count, event_cap;
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

static void on_pipe(nng_pipe pipe, nng_pipe_ev ev, void *arg)
{
    struct lane_ref *ref = arg;
    struct peers *p = ref->peers;

    pthread_mutex_lock(&p->lock);
    if (ev == NNG_PIPE_EV_REM_POST)
        ref->ended = true;
    if (!p->stopping) {
        GROW(p->events, p->event_count, p->event_cap);
        p->events[p->event_count++] = (struct pipe_event){.lane_id = ref->lane_id,
                                                          .pipe = nng_pipe_id(pipe),
                                                          .listener = nng_pipe_listener(pipe).id,
                                                          .added = ev == NNG_PIPE_EV_ADD_POST};
        loop_wake_send(p->wake);
    }
    pthread_mutex_unlock(&p->lock);
}

/* ---- apart ---- */

struct errand {
    struct peers *peers;
    void (*run)(struct errand *e);
    nng_socket sock;           /* close it, */
    nng_aio *aio;              /* then free this, or NULL, */
    struct lane_ref *ref;      /* and this, or NULL */
    uint32_t dialer;           /* close it */
    struct listener *listener; /* replace it */
};

static void run_close_socket(struct errand *e)
{
    nng_close(e->sock);
    if (e->aio != NULL) {
        nng_aio_stop(e->aio);
        nng_aio_free(e->aio);
    }
    free(e->ref);
}

static void run_close_dialer(struct errand *e)
{
    nng_dialer_close((nng_dialer){.id = e->dialer});
}

static int listener_open(struct peers *p, struct listener *l)
{
    nng_listener id;
    int rv = nng_listen(p->pull, l->url, &id, 0);

    if (rv == 0 && l->relayed)
        chmod(l->url + strlen("ipc://"), 0600);
    pthread_mutex_lock(&p->lock);
    l->id = rv == 0 ? id.id : 0;
    pthread_mutex_unlock(&p->lock);
    return rv;
}

static void run_renew_listener(struct errand *e)
{
    struct peers *p = e->peers;
    struct listener *l = e->listener;
    uint32_t old;

    pthread_mutex_lock(&p->lock);
    old = l->id;
    pthread_mutex_unlock(&p->lock);
    nng_listener_close((nng_listener){.id = old});
    listener_open(p, l); /* without success, the next check tries again */
    pthread_mutex_lock(&p->lock);
    l->renewing = false;
    pthread_mutex_unlock(&p->lock);
}

static void *run_errand(void *arg)
{
    struct errand *e = arg;
    struct peers *p = e->peers;

    e->run(e);
    free(e);
    pthread_mutex_lock(&p->lock);
    p->apart--;
    pthread_cond_signal(&p->apart_ended); /* with the lock: whoever waits frees p */
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static void run_apart(const struct errand *errand)
{
    struct errand *e = xmalloc(sizeof(*e));
    pthread_t thread;

    *e = *errand;
    pthread_mutex_lock(&e->peers->lock);
    e->peers->apart++;
    pthread_mutex_unlock(&e->peers->lock);
    if (pthread_create(&thread, NULL, run_errand, e) != 0)
        run_errand(e);
    else
        pthread_detach(thread);
}

/* false: some are still at it. */
static bool wait_for_apart(struct peers *p)
{
    struct timespec end;
    bool all;

    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += (end.tv_nsec + STOP_WAIT_MS * 1000000L) / 1000000000;
    end.tv_nsec = (end.tv_nsec + STOP_WAIT_MS * 1000000L) % 1000000000;
    pthread_mutex_lock(&p->lock);
    while (p->apart > 0 && pthread_cond_timedwait(&p->apart_ended, &p->lock, &end) == 0)
        ;
    all = p->apart == 0;
    pthread_mutex_unlock(&p->lock);
    return all;
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

/* Any earlier dialer of the lane is given up. */
/* The relay is there from the first https:// URL on. */
static int need_tls(struct peers *p, char **ret_error)
{
    if (p->tls != NULL)
        return 0;
    if (p->tls_conf == NULL) {
        *ret_error = xstrdup("no TLS");
        return -EPROTONOSUPPORT;
    }
    return peer_tls_start(p->tls_conf, p->run_dir, &p->tls, ret_error);
}

/* What nng dials for a member's URL. NULL: not to be had. */
static char *dial_url(struct peers *p, const char *text)
{
    CLEANUP(freep) char *error = NULL;

    if (!peer_tls_is_secure(text))
        return peer_nng_url(text);
    if (need_tls(p, &error) < 0) {
        log_error("cannot dial %s: %s", text, error);
        return NULL;
    }
    return peer_tls_dial(p->tls, text);
}

/* Where nng listens for one of our URLs. NULL: *ret_error says why. */
static char *listen_url(struct peers *p, const char *text, char **ret_error)
{
    char *url;

    if (peer_tls_is_secure(text))
        return need_tls(p, ret_error) == 0 ? peer_tls_listen(p->tls, text, ret_error) : NULL;
    url = peer_nng_url(text);
    if (url == NULL)
        *ret_error = xasprintf("cannot listen on %s: scheme not supported for peers", text);
    return url;
}

static int lane_dial(struct lane *lane, const char *text)
{
    CLEANUP(freep) char *url = dial_url(lane->peers, text);
    int rv;

    if (lane->dialer.id != 0)
        run_apart(&(struct errand){
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
    return rv == 0 ? 0 : nng_errno(rv);
}

static void set_blocked(struct lane *lane, bool blocked)
{
    if (lane->blocked == blocked)
        return;
    lane->blocked = blocked;
    loop_io_set(lane->sendable, blocked ? LOOP_READ : 0);
}

static void on_sendable(void *user, unsigned int events)
{
    struct lane *lane = user;

    set_blocked(lane, false);
    loop_hook_arm(lane->peers->flush);
}

static int lane_open(struct peers *p, struct peer *peer, enum peer_lane kind)
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
        return nng_errno(rv);
    }
    lane->open = true;
    lane->ref = ref;
    rv = nng_socket_get_int(lane->sock, NNG_OPT_SENDFD, &fd);
    if (rv == 0)
        lane->sendable = loop_io_new(p->loop, "peer sendable", fd, on_sendable, lane);
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
    loop_io_free(lane->sendable); /* before its descriptor is gone */
    if (lane->open)
        run_apart(&(struct errand){.peers = lane->peers,
                                   .run = run_close_socket,
                                   .sock = lane->sock,
                                   .ref = lane->ref});
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

/* With the lock, so that the connection is not taken down meanwhile: nng before 1.6 may keep one in
 * its list of ready connections that is being freed, and send on it. */
static bool hand_to_nng(struct peers *p, struct lane *lane, nng_msg *msg)
{
    bool taken;

    leak_check_give_away(msg); /* may be lost with the connection: see ipc_wall_send */
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
    lane->up_since_ms = loop_now_ms(p->loop);
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

static void on_pipe_event(struct peers *p, const struct pipe_event *ev)
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

static void on_reopen(void *user)
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
            lane_close(lane);
            if (lane_open(p, peer, (enum peer_lane)k) != 0)
                log_warn("cannot dial %s", peer->urls.items[peer->url_at]);
        }
    }
}

/* ---- receiving ---- */

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

static void end_probe(struct peers *p, struct listener *l);

static void on_inbound_event(struct peers *p, const struct pipe_event *ev)
{
    if (!ev->added) {
        inbound_ended(p, ev->pipe);
        return;
    }
    for (size_t i = 0; i < p->listener_count; i++) { /* it answers */
        struct listener *l = &p->listeners[i];
        uint32_t id;

        pthread_mutex_lock(&p->lock);
        id = l->id;
        pthread_mutex_unlock(&p->lock);
        if (id == ev->listener)
            end_probe(p, l);
    }
}

static void ping(struct peers *p, uint64_t id, enum peer_lane lane, enum peer_type type,
                 uint64_t clock_ns);

static void on_ping(struct peers *p, uint64_t from, const struct peer_frame *f)
{
    struct peer *peer = find_peer(p, from);
    struct wire_reader r = wire_reader(f->body);
    uint64_t clock_ns = wire_get_u64(&r), now = loop_clock_ns();

    if (peer == NULL || r.bad || clock_ns == 0)
        return;
    if (f->type == PEER_PING)
        ping(p, peer->id, PEER_LANE_MAIN, PEER_PONG, clock_ns);
    else if (clock_ns <= now)
        metrics_histogram_add(&peer->stats.round_trips, now - clock_ns);
}

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
        refuse(p, msg, NULL, "another protocol version", &p->totals.refused_version);
        return;
    }
    if (e != 0) {
        refuse(p, msg, NULL, "not a message of a member", &p->totals.malformed);
        return;
    }
    ours = is_ours(p, &h);
    peer = find_peer(p, h.from);
    if (peer != NULL && ours) {
        peer->stats.last_seen_ms = loop_now_ms(p->loop);
        peer->stats.bytes_received += body.len;
        inbound_seen(peer, nng_pipe_id(nng_msg_get_pipe(msg)));
    }
    while (r.pos != r.end) {
        struct peer_frame f;

        if (peer_frame_read(&r, &f) != 0) {
            refuse(p, msg, &h, "malformed", &p->totals.malformed);
            return;
        }
        ours = is_ours(p, &h); /* the frame before may have told us who we are */
        if (f.type == PEER_HELLO && !ours)
            continue; /* what follows decides */
        if (f.type != PEER_MEMBERS_QUERY && f.type != PEER_MEMBERS && f.type != PEER_HELLO) {
            if (p->self.cluster_id == 0)
                continue; /* we are asking who we are: they are told soon, and send it again */
            if (!ours) {
                refuse(p, msg, &h, "cluster id mismatch", &p->totals.refused_cluster);
                return;
            }
            if (h.to != p->self.from || h.from == 0 || h.from == p->self.from) {
                refuse(p, msg, &h, "not for this member", &p->totals.refused_receiver);
                return;
            }
        }
        if (f.type == PEER_PING || f.type == PEER_PONG)
            on_ping(p, h.from, &f);
        else
            p->ops->on_frame(p->user, &h, &f);
    }
}

static void on_wake(void *user)
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
        on_pipe_event(p, &events[i]);
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

/* ---- members ---- */

static void renew_listener(struct peers *p, struct listener *l)
{
    bool busy;

    pthread_mutex_lock(&p->lock);
    busy = l->renewing;
    l->renewing = true;
    pthread_mutex_unlock(&p->lock);
    if (busy)
        return;
    log_warn("the listener on %s does not answer, a new one takes its place", l->url);
    run_apart(&(struct errand){.peers = p, .run = run_renew_listener, .listener = l});
}

static void end_probe(struct peers *p, struct listener *l)
{
    if (!l->probing)
        return;
    l->probing = false;
    run_apart(&(struct errand){.peers = p, .run = run_close_socket, .sock = l->probe});
}

/* Dials them; each that lives brings a pipe, see on_wake. */
static void probe_listeners(struct peers *p)
{
    p->last_probe_ms = loop_now_ms(p->loop);
    for (size_t i = 0; i < p->listener_count; i++) {
        struct listener *l = &p->listeners[i];

        if (l->probing || nng_push0_open(&l->probe) != 0)
            continue;
        l->probing = true;
        nng_dial(l->probe, l->url, NULL, NNG_FLAG_NONBLOCK);
    }
    loop_timer_start(p->probe_end, PROBE_MS, 0);
}

static void on_probe_end(void *user)
{
    struct peers *p = user;

    for (size_t i = 0; i < p->listener_count; i++) {
        struct listener *l = &p->listeners[i];

        if (l->probing)
            renew_listener(p, l);
        end_probe(p, l);
    }
}

static void ping(struct peers *p, uint64_t id, enum peer_lane lane, enum peer_type type,
                 uint64_t clock_ns)
{
    struct buf *b = peers_begin(p, id, lane, type);

    if (b == NULL)
        return;
    wire_put_u64(b, clock_ns);
    peers_end(p);
}

/* Over each connection, so that the other side knows all of them; only the main one is measured. */
static void ping_peer(struct peers *p, const struct peer *peer)
{
    for (int k = 0; k < PEER_LANE_COUNT; k++) {
        if (peer->lanes[k].up)
            ping(p, peer->id, (enum peer_lane)k, PEER_PING,
                 k == PEER_LANE_MAIN ? loop_clock_ns() : 0);
    }
}

static bool reaches_us(const struct peer *peer)
{
    for (int k = 0; k < PEER_LANE_COUNT; k++) {
        if (peer->inbound[k] == 0)
            return false;
    }
    return true;
}

static void check_lane(struct peers *p, struct peer *peer, struct lane *lane)
{
    if (lane->up || lane->ended || loop_now_ms(p->loop) - lane->dialing_since_ms < DIAL_TRY_MS)
        return;
    if (lane->kind == PEER_LANE_MAIN)
        peer->url_at = (peer->url_at + 1) % peer->urls.count;
    if (lane_dial(lane, peer->urls.items[peer->url_at]) != 0)
        log_warn("cannot dial %s", peer->urls.items[peer->url_at]);
}

static void on_check(void *user)
{
    struct peers *p = user;
    uint64_t now = loop_now_ms(p->loop);
    bool deaf = false;

    for (size_t i = 0; i < p->count; i++) {
        struct peer *peer = p->list[i];

        for (int k = 0; k < PEER_LANE_COUNT; k++)
            check_lane(p, peer, &peer->lanes[k]);
        if (!peer->stats.up || reaches_us(peer))
            peer->one_way_since_ms = 0;
        else if (peer->one_way_since_ms == 0)
            peer->one_way_since_ms = now;
        else if (now - peer->one_way_since_ms >= ONE_WAY_MS)
            deaf = true;
    }
    if (now - p->last_ping_ms >= PING_MS) {
        p->last_ping_ms = now;
        for (size_t i = 0; i < p->count; i++)
            ping_peer(p, p->list[i]);
    }
    if (deaf && now - p->last_probe_ms >= ONE_WAY_MS)
        probe_listeners(p);
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
    peer->stats.round_trips.first_ns = ROUND_TRIP_FIRST_NS;
    peer->stats.round_trips.buckets = ROUND_TRIP_BUCKETS;
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
    if (p->tls != NULL)
        peer_tls_get_stats(p->tls, &ret->tls);
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
        rv = nng_pipe_notify(p->pull, NNG_PIPE_EV_ADD_POST, on_pipe, &p->pull_ref);
    if (rv == 0)
        rv = nng_pipe_notify(p->pull, NNG_PIPE_EV_REM_POST, on_pipe, &p->pull_ref);
    if (rv == 0)
        rv = nng_aio_alloc(&p->pull_aio, on_received, p);
    if (rv != 0) {
        *ret_error = xasprintf("peer socket: %s", nng_strerror(rv));
        return nng_errno(rv);
    }
    p->listeners = xcalloc(MAX(urls->count, (size_t)1), sizeof(*p->listeners));
    for (size_t i = 0; i < urls->count; i++) {
        struct listener *l = &p->listeners[p->listener_count];

        *l = (struct listener){.url = listen_url(p, urls->items[i], ret_error),
                               .relayed = peer_tls_is_secure(urls->items[i])};
        if (l->url == NULL)
            return -EPROTONOSUPPORT;
        p->listener_count++;
        rv = listener_open(p, l);
        if (rv != 0) {
            *ret_error = xasprintf("cannot listen on %s: %s", urls->items[i], nng_strerror(rv));
            return nng_errno(rv);
        }
    }
    if (p->tls != NULL)
        peer_tls_accept(p->tls);
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
    p->tls_conf = args->tls;
    p->run_dir = args->run_dir;
    p->self = (struct peer_header){
        .cluster_id = args->cluster_id, .from = args->member_id, .generation = args->generation};
    p->self_urls = xstrdup(args->self_urls);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->apart_ended, NULL);
    p->pull_ref = (struct lane_ref){.peers = p};
    p->wake = loop_wake_new(p->loop, "peers", on_wake, p);
    p->flush = loop_hook_new(p->loop, "peers_flush", LOOP_PHASE_FLUSH, on_flush, p);
    p->reopen = loop_timer_new(p->loop, "peers_reopen", on_reopen, p);
    p->check = loop_timer_new(p->loop, "peers_check", on_check, p);
    loop_timer_start(p->check, CHECK_MS, CHECK_MS);
    p->probe_end = loop_timer_new(p->loop, "peers_probe", on_probe_end, p);
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
    bool ended;

    if (p == NULL)
        return;
    pthread_mutex_lock(&p->lock);
    p->stopping = true;
    pthread_mutex_unlock(&p->lock);
    loop_timer_free(p->check);
    loop_timer_free(p->reopen);
    loop_timer_free(p->probe_end);
    loop_hook_free(p->flush);
    loop_wake_free(p->wake);
    for (size_t i = 0; i < p->listener_count; i++)
        end_probe(p, &p->listeners[i]);
    if (p->pull_open)
        run_apart(&(struct errand){
            .peers = p, .run = run_close_socket, .sock = p->pull, .aio = p->pull_aio});
    for (size_t i = 0; i < p->count; i++)
        peer_close(p->list[i]);
    ended = wait_for_apart(p);
    peer_tls_stop(p->tls);
    p->tls = NULL;
    if (!ended)
        return; /* they still use it */
    for (size_t i = 0; i < p->listener_count; i++)
        free(p->listeners[i].url);
    free(p->listeners);
    for (size_t i = 0; i < p->inbox_count; i++)
        nng_msg_free(p->inbox[i]);
    free(p->inbox);
    free(p->events);
    pthread_cond_destroy(&p->apart_ended);
    pthread_mutex_destroy(&p->lock);
    free(p->self_urls);
    free(p);
}
