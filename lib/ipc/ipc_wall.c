/*
 * The only file that knows nng: one pair0 socket, its connections, its messages.
 *
 * Messages come in through a completion callback that keeps one receive posted, puts each message
 * on a bounded queue and wakes the loop when the queue was empty; with the queue full it posts no
 * receive, and the kernel's buffer, then the peer, feel it. Messages go out through the
 * non-blocking call, with nng's "may send" descriptor on the loop only while one was refused. The
 * other ways cost more: nng's "may receive" descriptor is set and cleared with system calls for
 * each message, and a completion callback for sends is a thread switch for nothing (README.md has
 * the figures).
 */
#include "lib/ipc/ipc_internal.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <nng/nng.h>
#include <nng/protocol/pair0/pair.h>
#include "lib/ipc/ipc.h"
#include "lib/util/xmalloc.h"

enum {
    PIPES_MAX = 16, /* known at once; more than two only when the loop does not come round */
    /* Slots nng keeps in each direction. On the sending side enough for the "may send" descriptor
     * to stay raised, as each change of it is a system call. */
    SEND_SLOTS = 4,
    RECV_SLOTS = 2,
    REDIAL_MIN_MS = 5,
    REDIAL_MAX_MS = 100,
    CLOSE_WAIT_MS = 200,
};

struct pipe {
    uint32_t id;
    bool added; /* pair0 has accepted it */
};

struct ipc_wall {
    nng_socket socket;
    bool listening;
    char url[128];
    int send_fd;
    nng_aio *recv_aio;
    void (*on_news)(void *user);
    void *user;

    pthread_mutex_t lock; /* for what follows */
    pthread_cond_t news;
    unsigned int refs; /* our user, and each helper thread */
    uint32_t endpoint; /* id of the dialer or listener; 0: none was made */
    bool renewing;     /* a thread replaces it */
    uint32_t redial_ms;
    struct ipc_msg queue[IPC_WALL_QUEUE]; /* a ring */
    size_t queue_head, queue_count;
    bool recv_posted; /* false: the queue was full */
    bool pipe_news;
    bool closing;                 /* no call of on_news any more, nothing in the queue */
    bool closed;                  /* nng has let go of it */
    struct pipe pipes[PIPES_MAX]; /* in order of appearance */
    size_t pipe_count;
};

static atomic_size_t messages_held;

static int errno_of(int nng_error)
{
    static const struct {
        int nng, errno_;
    } table[] = {
        {NNG_EADDRINUSE, EADDRINUSE}, {NNG_ENOMEM, ENOMEM}, {NNG_EINVAL, EINVAL},
        {NNG_EADDRINVAL, EINVAL},     {NNG_ENOENT, ENOENT}, {NNG_EPERM, EACCES},
        {NNG_ENOFILES, EMFILE},       {NNG_EAGAIN, EAGAIN}, {NNG_ECLOSED, ECONNRESET},
        {NNG_ENOTSUP, EINVAL},        {NNG_ENOSPC, ENOSPC}, {NNG_ETIMEDOUT, EAGAIN},
    };

    if ((nng_error & NNG_ESYSERR) != 0)
        return -(nng_error & ~NNG_ESYSERR);
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        if (table[i].nng == nng_error)
            return -table[i].errno_;
    }
    return -EIO;
}

static void forget_at(struct ipc_wall *w, size_t i)
{
    w->pipe_count--;
    memmove(&w->pipes[i], &w->pipes[i + 1], (w->pipe_count - i) * sizeof(w->pipes[0]));
}

static void forget(struct ipc_wall *w, uint32_t id)
{
    for (size_t i = 0; i < w->pipe_count; i++) {
        if (w->pipes[i].id == id) {
            forget_at(w, i);
            return;
        }
    }
}

/* With the lock held, so that nothing is told once closing is set; on_news only wakes a loop. */
static void tell_news(struct ipc_wall *w)
{
    pthread_cond_signal(&w->news);
    if (!w->closing)
        w->on_news(w->user);
}

/* On nng's threads. ADD_PRE comes before the first message of a connection, ADD_POST only when
 * pair0 has accepted it, so a refused second connection is never "added". */
static void pipe_event(nng_pipe pipe, nng_pipe_ev event, void *user)
{
    struct ipc_wall *w = user;
    uint32_t id = (uint32_t)nng_pipe_id(pipe);

    pthread_mutex_lock(&w->lock);
    switch (event) {
    case NNG_PIPE_EV_ADD_PRE:
        if (w->pipe_count == PIPES_MAX)
            forget_at(w, 0);
        w->pipes[w->pipe_count++] = (struct pipe){id, false};
        break;
    case NNG_PIPE_EV_ADD_POST:
        for (size_t i = 0; i < w->pipe_count; i++) {
            if (w->pipes[i].id == id)
                w->pipes[i].added = true;
        }
        break;
    default:
        forget(w, id);
        break;
    }
    if (event != NNG_PIPE_EV_ADD_PRE) {
        w->pipe_news = true;
        tell_news(w);
    }
    pthread_mutex_unlock(&w->lock);
}

/* On nng's threads, one call at a time: the next receive is posted at the end. */
static void received(void *user)
{
    struct ipc_wall *w = user;
    struct ipc_msg m;
    bool more;

    if (nng_aio_result(w->recv_aio) != 0)
        return; /* the socket was closed */
    m.msg = nng_aio_get_msg(w->recv_aio);
    m.data = bytes_of(nng_msg_body(m.msg), nng_msg_len(m.msg));
    m.pipe = (uint32_t)nng_pipe_id(nng_msg_get_pipe(m.msg));
    atomic_fetch_add_explicit(&messages_held, 1, memory_order_relaxed);
    pthread_mutex_lock(&w->lock);
    if (w->closing) {
        pthread_mutex_unlock(&w->lock);
        ipc_wall_msg_free(m.msg);
        return;
    }
    assert(w->queue_count < IPC_WALL_QUEUE);
    w->queue[(w->queue_head + w->queue_count) % IPC_WALL_QUEUE] = m;
    w->queue_count++;
    more = w->recv_posted = w->queue_count < IPC_WALL_QUEUE;
    if (w->queue_count == 1)
        tell_news(w);
    pthread_mutex_unlock(&w->lock);
    if (more)
        nng_recv_aio(w->socket, w->recv_aio);
}

static int start_dialer(nng_socket socket, const char *url, uint32_t redial_ms, uint32_t *ret_id)
{
    nng_dialer d;
    int r = nng_dialer_create(&d, socket, url);

    if (r != 0)
        return r;
    r = nng_dialer_set_ms(d, NNG_OPT_RECONNMINT, (nng_duration)redial_ms);
    if (r == 0)
        r = nng_dialer_set_ms(d, NNG_OPT_RECONNMAXT, REDIAL_MAX_MS);
    if (r == 0)
        r = nng_dialer_start(d, NNG_FLAG_NONBLOCK);
    if (r != 0)
        nng_dialer_close(d);
    else
        *ret_id = d.id;
    return r;
}

static int start_listener(nng_socket socket, const char *url, uint32_t *ret_id)
{
    nng_listener l;
    int r = nng_listener_create(&l, socket, url);

    if (r != 0)
        return r;
    r = nng_listener_set_int(l, NNG_OPT_IPC_PERMISSIONS, 0600);
    if (r == 0)
        r = nng_listener_start(l, 0);
    if (r != 0)
        nng_listener_close(l);
    else
        *ret_id = l.id;
    return r;
}

static int start_endpoint(const struct ipc_wall *w, uint32_t redial_ms, uint32_t *ret_id)
{
    if (w->listening)
        return start_listener(w->socket, w->url, ret_id);
    return start_dialer(w->socket, w->url, redial_ms, ret_id);
}

static int open_socket(struct ipc_wall *w)
{
    int r;

    r = nng_socket_set_int(w->socket, NNG_OPT_SENDBUF, SEND_SLOTS);
    if (r == 0)
        r = nng_socket_set_int(w->socket, NNG_OPT_RECVBUF, RECV_SLOTS);
    if (r == 0)
        r = nng_socket_set_size(w->socket, NNG_OPT_RECVMAXSZ,
                                IPC_BATCH_SPLIT_BYTES + (size_t)IPC_FRAME_BYTES_MAX + 4096);
    for (int event = NNG_PIPE_EV_ADD_PRE; r == 0 && event < NNG_PIPE_EV_NUM; event++)
        r = nng_pipe_notify(w->socket, (nng_pipe_ev)event, pipe_event, w);
    if (r == 0)
        r = nng_socket_get_int(w->socket, NNG_OPT_SENDFD, &w->send_fd);
    return r;
}

static void init_cond(pthread_cond_t *cond)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

/* The last one out frees it. */
static void unref(struct ipc_wall *w)
{
    bool last;

    pthread_mutex_lock(&w->lock);
    last = --w->refs == 0;
    pthread_mutex_unlock(&w->lock);
    if (!last)
        return;
    pthread_cond_destroy(&w->news);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

int ipc_wall_open(const char *url, bool listen, void (*on_news)(void *user), void *user,
                  struct ipc_wall **ret_wall)
{
    struct ipc_wall *w;
    int r;

    if (strncmp(url, "ipc://", 6) != 0 || url[6] == '\0')
        return -EINVAL;
    static_assert(sizeof(w->url) > 6 + 107, "a whole path");
    if (strlen(url + 6) > 107) /* sun_path of unix(7), with its NUL */
        return -ENAMETOOLONG;
    w = xcalloc(1, sizeof(*w));
    w->on_news = on_news;
    w->user = user;
    w->refs = 1;
    w->listening = listen;
    w->redial_ms = REDIAL_MIN_MS;
    snprintf(w->url, sizeof(w->url), "%s", url);
    pthread_mutex_init(&w->lock, NULL);
    init_cond(&w->news);
    r = nng_aio_alloc(&w->recv_aio, received, w);
    if (r != 0)
        goto fail_aio;
    r = nng_pair0_open(&w->socket);
    if (r != 0)
        goto fail_open;
    r = open_socket(w);
    if (r == 0)
        r = start_endpoint(w, w->redial_ms, &w->endpoint);
    if (r != 0)
        goto fail;
    w->recv_posted = true;
    nng_recv_aio(w->socket, w->recv_aio);
    *ret_wall = w;
    return 0;

fail:
    nng_close(w->socket);
fail_open:
    nng_aio_free(w->recv_aio);
fail_aio:
    unref(w);
    return errno_of(r);
}

/* A thread of its own for a call into nng that may block for long. false: no thread to be had. */
static bool run_apart(struct ipc_wall *w, void *(*fn)(void *arg))
{
    pthread_t thread;

    pthread_mutex_lock(&w->lock);
    w->refs++;
    pthread_mutex_unlock(&w->lock);
    if (pthread_create(&thread, NULL, fn, w) != 0) {
        unref(w);
        return false;
    }
    pthread_detach(thread);
    return true;
}

static void close_socket(struct ipc_wall *w)
{
    nng_close(w->socket); /* waits for its connections, so for their events too */
    nng_aio_stop(w->recv_aio);
    nng_aio_free(w->recv_aio);
    pthread_mutex_lock(&w->lock);
    w->closed = true;
    pthread_cond_signal(&w->news);
    pthread_mutex_unlock(&w->lock);
}

static void *close_apart(void *arg)
{
    struct ipc_wall *w = arg;

    close_socket(w);
    unref(w);
    return NULL;
}

static struct timespec after_ms(uint64_t ms)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += (time_t)(ms / 1000);
    t.tv_nsec += (long)(ms % 1000) * 1000000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_nsec -= 1000000000;
        t.tv_sec++;
    }
    return t;
}

/*
 * nng_close (1.5.2) waits for ever now and then when the other side closes at the same moment, in
 * one of some thirty such closes here. So a thread does it and we do not wait for long; what
 * is left behind then is one socket of a process that is about to end.
 */
void ipc_wall_close(struct ipc_wall *w)
{
    struct timespec end = after_ms(CLOSE_WAIT_MS);

    if (w == NULL)
        return;
    pthread_mutex_lock(&w->lock);
    w->closing = true;
    for (; w->queue_count > 0; w->queue_count--) {
        ipc_wall_msg_free(w->queue[w->queue_head].msg);
        w->queue_head = (w->queue_head + 1) % IPC_WALL_QUEUE;
    }
    pthread_mutex_unlock(&w->lock);
    if (!run_apart(w, close_apart))
        close_socket(w);
    pthread_mutex_lock(&w->lock);
    while (!w->closed && pthread_cond_timedwait(&w->news, &w->lock, &end) == 0)
        ;
    pthread_mutex_unlock(&w->lock);
    unref(w);
}

int ipc_wall_send_fd(const struct ipc_wall *w)
{
    return w->send_fd;
}

size_t ipc_wall_recv(struct ipc_wall *w, struct ipc_msg *ret, size_t max)
{
    size_t n;
    bool post;

    pthread_mutex_lock(&w->lock);
    n = MIN(w->queue_count, max);
    for (size_t i = 0; i < n; i++) {
        ret[i] = w->queue[w->queue_head];
        w->queue_head = (w->queue_head + 1) % IPC_WALL_QUEUE;
    }
    w->queue_count -= n;
    post = !w->recv_posted && n > 0;
    w->recv_posted = w->recv_posted || post;
    pthread_mutex_unlock(&w->lock);
    if (post)
        nng_recv_aio(w->socket, w->recv_aio);
    return n;
}

void ipc_wall_wait(struct ipc_wall *w, uint64_t timeout_ms)
{
    struct timespec end = after_ms(timeout_ms);

    pthread_mutex_lock(&w->lock);
    while (w->queue_count == 0 && !w->pipe_news) {
        if (pthread_cond_timedwait(&w->news, &w->lock, &end) != 0)
            break;
    }
    pthread_mutex_unlock(&w->lock);
}

void ipc_wall_msg_free(struct nng_msg *msg)
{
    atomic_fetch_sub_explicit(&messages_held, 1, memory_order_relaxed);
    nng_msg_free(msg);
}

size_t ipc_wall_messages_held(void)
{
    return atomic_load_explicit(&messages_held, memory_order_relaxed);
}

struct nng_msg *ipc_wall_msg_new(size_t len, uint8_t **ret_data)
{
    nng_msg *msg;

    if (nng_msg_alloc(&msg, len) != 0)
        PANIC("out of memory for a message of %zu bytes", len);
    atomic_fetch_add_explicit(&messages_held, 1, memory_order_relaxed);
    *ret_data = nng_msg_body(msg);
    return msg;
}

/* nng frees a message when it has sent it, and nobody wipes it then. One of this size is memory of
 * its own, which goes back to the kernel. */
struct nng_msg *ipc_wall_secret_new(size_t len, uint8_t **ret_data)
{
    size_t own = len + xmalloc_apart_bytes();
    struct nng_msg *msg = ipc_wall_msg_new(own, ret_data);

    nng_msg_chop(msg, own - len);
    *ret_data = nng_msg_body(msg);
    return msg;
}

/* nng before 1.6 loses a message that it is given while it takes the connection down: its transport
 * returns without a word when the operation was closed already. One at most a connection. */
int ipc_wall_send(struct ipc_wall *w, struct nng_msg *msg)
{
    int r = nng_sendmsg(w->socket, msg, NNG_FLAG_NONBLOCK);

    if (r != 0)
        return errno_of(r);
    atomic_fetch_sub_explicit(&messages_held, 1, memory_order_relaxed);
    return 0;
}

bool ipc_wall_take_pipe_news(struct ipc_wall *w)
{
    bool news;

    pthread_mutex_lock(&w->lock);
    news = w->pipe_news;
    w->pipe_news = false;
    pthread_mutex_unlock(&w->lock);
    return news;
}

uint32_t ipc_wall_newest_pipe(struct ipc_wall *w)
{
    uint32_t id = 0;

    pthread_mutex_lock(&w->lock);
    for (size_t i = w->pipe_count; i > 0 && id == 0; i--) {
        if (w->pipes[i - 1].added)
            id = w->pipes[i - 1].id;
    }
    pthread_mutex_unlock(&w->lock);
    return id;
}

bool ipc_wall_pipe_known(struct ipc_wall *w, uint32_t pipe)
{
    bool known = false;

    pthread_mutex_lock(&w->lock);
    for (size_t i = 0; i < w->pipe_count; i++)
        known = known || w->pipes[i].id == pipe;
    pthread_mutex_unlock(&w->lock);
    return known;
}

void ipc_wall_forget_before(struct ipc_wall *w, uint32_t pipe)
{
    pthread_mutex_lock(&w->lock);
    while (w->pipe_count > 0 && w->pipes[0].id != pipe)
        forget_at(w, 0);
    pthread_mutex_unlock(&w->lock);
}

void ipc_wall_drop_pipe(struct ipc_wall *w, uint32_t pipe)
{
    pthread_mutex_lock(&w->lock);
    forget(w, pipe);
    pthread_mutex_unlock(&w->lock);
    nng_pipe_close((nng_pipe){.id = pipe});
}

static void *renew_apart(void *arg)
{
    struct ipc_wall *w = arg;
    uint32_t old, new = 0, redial_ms;

    pthread_mutex_lock(&w->lock);
    old = w->endpoint;
    redial_ms = w->redial_ms;
    pthread_mutex_unlock(&w->lock);
    if (w->listening) /* unlinks the path: first, or it would unlink the new one's */
        nng_listener_close((nng_listener){.id = old});
    else
        nng_dialer_close((nng_dialer){.id = old});
    start_endpoint(w, redial_ms, &new); /* without success, the next renewal tries again */
    pthread_mutex_lock(&w->lock);
    w->endpoint = new;
    w->renewing = false;
    pthread_mutex_unlock(&w->lock);
    unref(w);
    return NULL;
}

void ipc_wall_renew(struct ipc_wall *w)
{
    bool busy;

    pthread_mutex_lock(&w->lock);
    busy = w->renewing;
    w->renewing = true;
    pthread_mutex_unlock(&w->lock);
    if (!busy && !run_apart(w, renew_apart)) {
        pthread_mutex_lock(&w->lock);
        w->renewing = false;
        pthread_mutex_unlock(&w->lock);
    }
}

void ipc_wall_set_redial(struct ipc_wall *w, uint32_t after_ms)
{
    uint32_t id;

    pthread_mutex_lock(&w->lock);
    w->redial_ms = MAX(MIN(after_ms, (uint32_t)REDIAL_MAX_MS), (uint32_t)REDIAL_MIN_MS);
    id = w->endpoint;
    pthread_mutex_unlock(&w->lock);
    if (!w->listening)
        nng_dialer_set_ms((nng_dialer){.id = id}, NNG_OPT_RECONNMINT, (nng_duration)w->redial_ms);
}
