/*
 * The state of a link.
 *
 *         connection            HELLO that echoes our epoch, accepted
 *   DOWN ------------> GREETING --------------------------------------> UP
 *     ^ ---------------- connection lost, or we closed it ------------- '
 *
 * A side has a new epoch for each connection, unique across processes (a random start). nng may
 * deliver to a new connection what was queued for an old one, HELLO included. So a batch names the
 * epoch of its sender and the receiver's epoch it was meant for, and a side is up only once it got
 * a HELLO that echoes its own current epoch:
 *
 *   A: HELLO(a, echo 0)  ->          <- B: HELLO(b, echo 0)
 *   A: HELLO(a, echo b)  ->          <- B: HELLO(b, echo a)      both up; frames follow
 *
 * Each side answers a HELLO of a new epoch with its own, before it can be up, so frames of a peer
 * never overtake the HELLO that makes us accept them.
 *
 * Credits count the bytes of frames, not of HELLO or batch headers. Every batch reports what its
 * sender has consumed; when nothing is to be sent, an empty batch does, once a quarter of the
 * smaller credit is unreported.
 */
#include "lib/ipc/ipc.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include "lib/ipc/ipc_internal.h"
#include "lib/loop/loop.h"
#include "lib/util/list.h"
#include "lib/util/xmalloc.h"

enum {
    MESSAGES_PER_TURN = 32, /* then others get their turn */
    REDIAL_MIN_MS = 5,
    REDIAL_MAX_MS = 100,
    STABLE_MS = 1000, /* a connection that lived so long was no flapping */
    OUT_KEEP_BYTES = 256 << 10, /* of buffer, while there is something to send every now and then */
    OUT_QUIET_BYTES = 4 << 10,  /* when there was nothing for half a second */
    /* nng before 1.6 takes a connection that ends while it is made, with EPIPE, for its own end: the
     * dialer dials no more, the listener accepts no more (nng's issue 1518). Who has no connection
     * for some looks takes a new one; the listener is
     * slower, as a new one refuses who is just connecting to the old. */
    ENDPOINT_CHECK_MS = 500,
    DIALER_LOOKS = 2,
    LISTENER_LOOKS = 5,
};

struct backlog_msg {
    struct list node;
    struct nng_msg *msg;
};

struct ipc_link {
    struct loop *loop;
    char *name;
    const struct ipc_link_ops *ops;
    void *user;
    size_t credit_bytes;

    struct ipc_wall *wall;
    struct loop_io *send_io;
    struct loop_wake *wake;
    struct loop_hook *flush_hook;
    struct loop_timer *endpoint_check;
    unsigned int looks, looks_max; /* without a connection */
    uint64_t batches_seen; /* sent, as of the last look */

    uint32_t pipe; /* 0: no connection */
    uint64_t own_epoch, peer_epoch;
    uint64_t answered_epoch; /* the peer epoch our latest HELLO echoes */
    bool up;
    uint64_t up_since_ms;
    uint32_t redial_ms;
    bool stopping;

    struct buf out; /* the batch being gathered: room for the header, then frames */
    uint32_t out_frames;
    size_t frame_start;
    bool in_frame;
    bool secret; /* `out` has one */
    struct list backlog; /* full batches that nng does not take yet */
    bool blocked;        /* nng takes no message now */

    uint64_t sent, peer_consumed;   /* frame bytes of this connection: queued; consumed there */
    uint64_t consumed, reported;    /* frame bytes consumed here; told to the peer */
    uint64_t held;                  /* of consumed: taken, but not worked off */
    uint64_t report_every;
    bool report_now;
    bool full; /* credit was used up and not half of it is back */

    struct ipc_link_stats stats;
};

static void out_reset(struct ipc_link *l)
{
    if (l->secret)
        buf_wipe(&l->out);
    l->secret = false;
    buf_clear(&l->out);
    buf_trim(&l->out, OUT_KEEP_BYTES);
    buf_reserve(&l->out, sizeof(struct ipc_batch_header));
    l->out.len = sizeof(struct ipc_batch_header);
    l->out_frames = 0;
}

static void backlog_clear(struct ipc_link *l)
{
    struct list *node;

    while ((node = list_pop_front(&l->backlog)) != NULL) {
        struct backlog_msg *b = LIST_ENTRY(node, struct backlog_msg, node);

        ipc_wall_msg_free(b->msg);
        free(b);
    }
}

/* ---- down ---- */

static void set_blocked(struct ipc_link *l, bool blocked)
{
    if (l->blocked == blocked)
        return;
    l->blocked = blocked;
    loop_io_set(l->send_io, blocked ? LOOP_READ : 0);
}

/* Forget the connection. What was queued for it has an unknown outcome and goes nowhere. */
static void go_down(struct ipc_link *l)
{
    bool was_up = l->up;

    if (l->pipe == 0)
        return;
    l->pipe = 0;
    l->up = false;
    l->full = false;
    l->peer_epoch = 0;
    out_reset(l);
    backlog_clear(l);
    set_blocked(l, false);
    if (was_up && loop_now_ms(l->loop) - l->up_since_ms >= STABLE_MS)
        l->redial_ms = REDIAL_MIN_MS;
    else
        l->redial_ms = MIN(l->redial_ms * 2, (uint32_t)REDIAL_MAX_MS);
    ipc_wall_set_redial(l->wall, l->redial_ms);
    if (was_up && !l->stopping)
        l->ops->on_down(l->user);
}

/* The peer broke the rules, or we refuse it: it has to connect again. */
static void drop_connection(struct ipc_link *l)
{
    uint32_t pipe = l->pipe;

    ipc_wall_drop_pipe(l->wall, pipe);
    go_down(l);
}

/* ---- sending ---- */

/* What may be reported: never less than before. */
static uint64_t reportable(const struct ipc_link *l)
{
    return MAX(l->reported, l->consumed - MIN(l->held, l->consumed));
}

static struct nng_msg *build_message(struct ipc_link *l)
{
    struct ipc_batch_header h = {
        .magic = IPC_BATCH_MAGIC,
        .version = IPC_BATCH_VERSION,
        .flags = (uint16_t)((l->stopping ? IPC_BATCH_REPORT : 0) |
                            (l->secret ? IPC_BATCH_SECRET : 0)),
        .epoch = l->own_epoch,
        .echo = l->peer_epoch,
        .consumed = reportable(l),
        .frame_count = l->out_frames,
        .credit_bytes = (uint32_t)l->credit_bytes,
    };
    struct nng_msg *msg;
    uint8_t *data;

    memcpy(l->out.data, &h, sizeof(h));
    msg = l->secret ? ipc_wall_secret_new(l->out.len, &data) : ipc_wall_msg_new(l->out.len, &data);
    memcpy(data, l->out.data, l->out.len);
    l->stats.batches_sent++;
    l->stats.frames_sent += l->out_frames;
    l->stats.bytes_sent += l->out.len;
    l->reported = h.consumed;
    l->report_now = false;
    out_reset(l);
    return msg;
}

static void push_backlog(struct ipc_link *l, struct nng_msg *msg)
{
    struct backlog_msg *b = xmalloc(sizeof(*b));

    b->msg = msg;
    list_init(&b->node);
    list_push_back(&l->backlog, &b->node);
}

/* true: nng has it, or it is gone; false: not now. */
static bool try_send(struct ipc_link *l, struct nng_msg *msg)
{
    int r = ipc_wall_send(l->wall, msg);

    if (r == -EAGAIN)
        return false;
    if (r < 0) {
        ipc_wall_msg_free(msg);
        ipc_wall_drop_pipe(l->wall, l->pipe); /* news of its end follows */
    }
    return true;
}

static void flush(struct ipc_link *l)
{
    struct nng_msg *msg;

    assert(!l->in_frame);
    if (l->pipe == 0)
        return;
    if (l->blocked) {
        if (l->out.len > IPC_BATCH_SPLIT_BYTES || l->secret)
            push_backlog(l, build_message(l));
        return;
    }
    if (l->out_frames == 0 && !(l->up && l->report_now))
        return;
    msg = build_message(l);
    if (!try_send(l, msg)) {
        push_backlog(l, msg);
        set_blocked(l, true);
    }
}

static void on_flush(void *user)
{
    flush(user);
}

static void on_sendable(void *user, unsigned int events)
{
    struct ipc_link *l = user;

    while (!list_empty(&l->backlog)) {
        struct backlog_msg *b = LIST_ENTRY(l->backlog.next, struct backlog_msg, node);

        if (!try_send(l, b->msg))
            return;
        list_remove(&b->node);
        free(b);
    }
    set_blocked(l, false);
    flush(l);
}

static struct buf *begin_frame(struct ipc_link *l, uint16_t type, uint64_t id)
{
    struct ipc_frame_header f = {.type = type, .id = id};

    assert(!l->in_frame);
    l->in_frame = true;
    l->frame_start = l->out.len;
    buf_append(&l->out, &f, sizeof(f));
    return &l->out;
}

static size_t end_frame(struct ipc_link *l)
{
    size_t len = l->out.len - l->frame_start - sizeof(struct ipc_frame_header);
    uint32_t body_len = (uint32_t)len;

    assert(l->in_frame);
    assert(len <= IPC_FRAME_BYTES_MAX);
    memcpy(l->out.data + l->frame_start + offsetof(struct ipc_frame_header, body_len), &body_len,
           sizeof(body_len));
    l->in_frame = false;
    l->out_frames++;
    if (l->out_frames == 1)
        loop_hook_arm(l->flush_hook);
    return len + sizeof(struct ipc_frame_header);
}

static void queue_hello(struct ipc_link *l)
{
    struct buf *body = begin_frame(l, IPC_TYPE_HELLO, 0);

    l->ops->fill_hello(l->user, body);
    end_frame(l);
    l->answered_epoch = l->peer_epoch;
}

struct buf *ipc_link_begin(struct ipc_link *l, uint16_t type, uint64_t id)
{
    assert(type >= IPC_TYPE_RESERVED);
    if (!l->up)
        return NULL;
    return begin_frame(l, type, id);
}

void ipc_link_set_secret(struct ipc_link *l)
{
    assert(l->in_frame);
    l->secret = true;
}

void ipc_link_end(struct ipc_link *l)
{
    l->sent += end_frame(l);
    if (l->sent - l->peer_consumed >= l->credit_bytes)
        l->full = true;
    if (l->out.len > IPC_BATCH_SPLIT_BYTES || l->secret)
        flush(l);
}

bool ipc_link_send(struct ipc_link *l, uint16_t type, uint64_t id, struct bytes body)
{
    struct buf *b = ipc_link_begin(l, type, id);

    if (b == NULL)
        return false;
    buf_append_bytes(b, body);
    ipc_link_end(l);
    return true;
}

void ipc_link_flush(struct ipc_link *l)
{
    flush(l);
}

bool ipc_link_is_up(const struct ipc_link *l)
{
    return l->up;
}

bool ipc_link_writable(const struct ipc_link *l)
{
    return l->up && !l->full;
}

void ipc_link_get_stats(const struct ipc_link *l, struct ipc_link_stats *ret)
{
    *ret = l->stats;
}

/* ---- receiving ---- */

static void adopt(struct ipc_link *l, uint32_t pipe)
{
    go_down(l);
    ipc_wall_forget_before(l->wall, pipe);
    l->pipe = pipe;
    l->own_epoch++;
    l->sent = l->peer_consumed = 0;
    l->consumed = l->reported = l->held = 0;
    l->report_now = false;
    l->stats.connects++;
    queue_hello(l);
}

static void malformed(struct ipc_link *l)
{
    l->stats.malformed++;
    drop_connection(l);
}

/* false: the connection is gone. */
static bool take_hello(struct ipc_link *l, const struct ipc_batch_header *h, struct bytes body)
{
    uint64_t smaller = MIN((uint64_t)h->credit_bytes, (uint64_t)l->credit_bytes);

    if (l->up) {
        if (h->epoch == l->peer_epoch)
            return true; /* its first one, answered meanwhile */
        malformed(l);
        return false;
    }
    l->peer_epoch = h->epoch;
    if (l->answered_epoch != l->peer_epoch)
        queue_hello(l);
    if (h->echo == 0)
        return true;
    if (l->ops->on_hello(l->user, body) != 0) {
        drop_connection(l);
        return false;
    }
    l->report_every = MAX(smaller / 4, (uint64_t)1);
    l->up = true;
    l->up_since_ms = loop_now_ms(l->loop);
    l->ops->on_up(l->user);
    return l->up;
}

static void take_report(struct ipc_link *l, const struct ipc_batch_header *h)
{
    l->peer_consumed = MAX(l->peer_consumed, h->consumed);
    if (!l->full || l->sent - l->peer_consumed > l->credit_bytes / 2)
        return;
    l->full = false;
    if (l->ops->on_writable != NULL && !l->stopping)
        l->ops->on_writable(l->user);
}

static void take_frames(struct ipc_link *l, const struct ipc_batch_header *h, struct bytes batch)
{
    struct ipc_batch_reader reader = ipc_batch_reader(batch);
    struct ipc_frame frame;

    while (ipc_batch_next(&reader, &frame)) {
        if (frame.type == IPC_TYPE_HELLO) {
            if (!take_hello(l, h, frame.body))
                return;
            continue;
        }
        if (!l->up || h->epoch != l->peer_epoch) {
            l->stats.stale_batches++;
            return;
        }
        l->consumed += sizeof(struct ipc_frame_header) + frame.body.len;
        l->stats.frames_received++;
        if (!l->stopping)
            l->ops->on_frame(l->user, &frame);
    }
    if (!l->up)
        return;
    if (reportable(l) - l->reported >= l->report_every || (h->flags & IPC_BATCH_REPORT) != 0) {
        l->report_now = true;
        loop_hook_arm(l->flush_hook);
    }
}

void ipc_link_set_held(struct ipc_link *l, uint64_t bytes)
{
    l->held = bytes;
    if (l->up && reportable(l) - l->reported >= l->report_every) {
        l->report_now = true;
        loop_hook_arm(l->flush_hook);
    }
}

static void take_batch(struct ipc_link *l, struct bytes batch)
{
    struct ipc_batch_header h;

    if (ipc_batch_check(batch, &h) < 0) {
        malformed(l);
        return;
    }
    l->stats.batches_received++;
    l->stats.bytes_received += batch.len;
    if (h.echo != 0 && h.echo != l->own_epoch) {
        l->stats.stale_batches++; /* meant for an earlier connection */
        return;
    }
    if (l->up && h.epoch == l->peer_epoch && h.echo == l->own_epoch) {
        if (h.consumed > l->sent) {
            malformed(l);
            return;
        }
        take_report(l, &h);
    }
    take_frames(l, &h, batch);
}

static void take_message(struct ipc_link *l, const struct ipc_msg *m)
{
    if (m->pipe != l->pipe) {
        if (!ipc_wall_pipe_known(l->wall, m->pipe)) {
            l->stats.stale_batches++; /* of a connection that is gone */
            return;
        }
        if (!l->stopping)
            adopt(l, m->pipe); /* its first message came before the news of it */
        else
            return;
    }
    take_batch(l, m->data);
}

/* true: nothing is left. */
static bool receive(struct ipc_link *l)
{
    struct ipc_msg m[MESSAGES_PER_TURN];
    size_t n = ipc_wall_recv(l->wall, m, MESSAGES_PER_TURN);

    for (size_t i = 0; i < n; i++) {
        take_message(l, &m[i]);
        if (ipc_batch_is_secret(m[i].data))
            explicit_bzero((void *)(uintptr_t)m[i].data.data, m[i].data.len);
        ipc_wall_msg_free(m[i].msg);
    }
    if (n == MESSAGES_PER_TURN)
        loop_wake_send(l->wake);
    return n < MESSAGES_PER_TURN;
}

/* On an nng thread. */
static void on_news(void *user)
{
    struct ipc_link *l = user;

    loop_wake_send(l->wake);
}

/* What arrived before a connection ended comes before on_down. */
static void on_wake(void *user)
{
    struct ipc_link *l = user;
    uint32_t newest;

    if (!receive(l)) /* woken again for the rest */
        return;
    if (!ipc_wall_take_pipe_news(l->wall))
        return;
    newest = ipc_wall_newest_pipe(l->wall);
    if (newest == l->pipe)
        return;
    if (newest != 0)
        adopt(l, newest);
    else if (!ipc_wall_pipe_known(l->wall, l->pipe))
        go_down(l);
}

/* A link with nothing to send keeps no memory for it. */
static void release_when_quiet(struct ipc_link *l)
{
    if (l->out_frames == 0 && !l->in_frame && l->batches_seen == l->stats.batches_sent &&
        l->out.cap > OUT_QUIET_BYTES) {
        buf_fini(&l->out);
        out_reset(l);
    }
    l->batches_seen = l->stats.batches_sent;
}

static void on_endpoint_check(void *user)
{
    struct ipc_link *l = user;

    release_when_quiet(l);
    if (l->pipe != 0 || ipc_wall_newest_pipe(l->wall) != 0) {
        l->looks = 0;
    } else if (++l->looks >= l->looks_max) {
        l->looks = 0;
        ipc_wall_renew(l->wall);
    }
}

/* ---- life ---- */

int ipc_link_start(const struct ipc_link_args *args, struct ipc_link **ret_link)
{
    struct ipc_link *l = xcalloc(1, sizeof(*l));
    int r;

    assert(args->ops->fill_hello != NULL && args->ops->on_hello != NULL);
    assert(args->ops->on_up != NULL && args->ops->on_down != NULL && args->ops->on_frame != NULL);
    l->loop = args->loop;
    l->name = xstrdup(args->name);
    l->ops = args->ops;
    l->user = args->user;
    l->credit_bytes = args->credit_bytes != 0 ? args->credit_bytes : IPC_CREDIT_BYTES_DEFAULT;
    assert(l->credit_bytes <= UINT32_MAX);
    l->redial_ms = REDIAL_MIN_MS;
    list_init(&l->backlog);
    out_reset(l);
    if (getrandom(&l->own_epoch, sizeof(l->own_epoch), 0) != sizeof(l->own_epoch))
        PANIC("no random numbers");
    l->own_epoch = (l->own_epoch >> 1) + 1; /* so that counting up never meets 0 */
    /* nng's threads use the wake as soon as the socket is open */
    l->wake = loop_wake_new(l->loop, l->name, on_wake, l);
    r = ipc_wall_open(args->url, args->listen, on_news, l, &l->wall);
    if (r < 0) {
        loop_wake_free(l->wake);
        buf_fini(&l->out);
        free(l->name);
        free(l);
        return r;
    }
    l->send_io = loop_io_new(l->loop, l->name, ipc_wall_send_fd(l->wall), on_sendable, l);
    l->flush_hook = loop_hook_new(l->loop, l->name, LOOP_PHASE_FLUSH, on_flush, l);
    l->looks_max = args->listen ? LISTENER_LOOKS : DIALER_LOOKS;
    l->endpoint_check = loop_timer_new(l->loop, l->name, on_endpoint_check, l);
    loop_timer_start(l->endpoint_check, ENDPOINT_CHECK_MS, ENDPOINT_CHECK_MS);
    *ret_link = l;
    return 0;
}

/* The end of a daemon: blocks, so that nothing else runs between the last frame and the close. */
static void drain(struct ipc_link *l, uint64_t drain_ms)
{
    uint64_t end = loop_clock_ns() / 1000000 + drain_ms, now;

    while (l->up && l->peer_consumed < l->sent && (now = loop_clock_ns() / 1000000) < end) {
        ipc_wall_wait(l->wall, l->blocked ? 1 : end - now);
        if (l->blocked)
            on_sendable(l, 0);
        receive(l);
        flush(l);
        ipc_wall_take_pipe_news(l->wall);
        if (!ipc_wall_pipe_known(l->wall, l->pipe))
            return;
    }
}

void ipc_link_stop(struct ipc_link *l, uint64_t drain_ms)
{
    if (l == NULL)
        return;
    assert(!l->in_frame);
    l->stopping = true;
    if (l->up && drain_ms > 0) {
        l->report_now = true; /* a last batch, empty or not, that asks for a report */
        flush(l);
        drain(l, drain_ms);
    }
    loop_timer_free(l->endpoint_check);
    loop_io_free(l->send_io);
    loop_hook_free(l->flush_hook);
    ipc_wall_close(l->wall);
    loop_wake_free(l->wake);
    backlog_clear(l);
    buf_fini(&l->out);
    free(l->name);
    free(l);
}
