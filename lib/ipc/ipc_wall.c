/*
 * The only file that knows nng: one pair0 socket, its connections, its messages.
 *
 * Sending and receiving use nng's non-blocking calls on the loop thread, with the socket's two
 * event descriptors on the loop. Completion callbacks instead would cost one more thread switch per
 * message in each direction: nng runs them on a pool, and they in turn have to wake the loop
 * (README.md has the measurement). What still runs on nng's threads is the news of connections.
 */
#include "lib/ipc/ipc_internal.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <nng/nng.h>
#include <nng/protocol/pair0/pair.h>
#include "lib/ipc/ipc.h"
#include "lib/util/xmalloc.h"

enum {
    PIPES_MAX = 16, /* known at once; more than two only when the loop does not come round */
    /* Slots nng keeps in each direction. On the sending side enough for the "may send" descriptor
     * to stay raised, as each change of it is a system call. */
    SEND_SLOTS = 4,
    RECV_SLOTS = 64,
    REDIAL_MIN_MS = 5,
    REDIAL_MAX_MS = 100,
};

struct pipe {
    uint32_t id;
    bool added; /* pair0 has accepted it */
};

struct ipc_wall {
    nng_socket socket;
    nng_dialer dialer;
    bool dialing;
    int recv_fd, send_fd;
    void (*on_pipe)(void *user);
    void *user;

    pthread_mutex_t lock; /* for what follows */
    struct pipe pipes[PIPES_MAX]; /* in order of appearance */
    size_t pipe_count;
};

static int errno_of(int nng_error)
{
    static const struct {
        int nng, errno_;
    } table[] = {
        {NNG_EADDRINUSE, EADDRINUSE}, {NNG_ENOMEM, ENOMEM},   {NNG_EINVAL, EINVAL},
        {NNG_EADDRINVAL, EINVAL},     {NNG_ENOENT, ENOENT},   {NNG_EPERM, EACCES},
        {NNG_ENOFILES, EMFILE},       {NNG_EAGAIN, EAGAIN},   {NNG_ECLOSED, ECONNRESET},
        {NNG_ENOTSUP, EINVAL},        {NNG_ENOSPC, ENOSPC},   {NNG_ETIMEDOUT, EAGAIN},
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
    pthread_mutex_unlock(&w->lock);
    if (event != NNG_PIPE_EV_ADD_PRE)
        w->on_pipe(w->user);
}

static int open_endpoint(struct ipc_wall *w, const char *url, bool listen)
{
    nng_listener listener;
    int r;

    if (listen) {
        r = nng_listener_create(&listener, w->socket, url);
        if (r == 0)
            r = nng_listener_set_int(listener, NNG_OPT_IPC_PERMISSIONS, 0600);
        if (r == 0)
            r = nng_listener_start(listener, 0);
        return r;
    }
    w->dialing = true;
    r = nng_dialer_create(&w->dialer, w->socket, url);
    if (r == 0)
        r = nng_dialer_set_ms(w->dialer, NNG_OPT_RECONNMINT, REDIAL_MIN_MS);
    if (r == 0)
        r = nng_dialer_set_ms(w->dialer, NNG_OPT_RECONNMAXT, REDIAL_MAX_MS);
    if (r == 0)
        r = nng_dialer_start(w->dialer, NNG_FLAG_NONBLOCK);
    return r;
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
        r = nng_socket_get_int(w->socket, NNG_OPT_RECVFD, &w->recv_fd);
    if (r == 0)
        r = nng_socket_get_int(w->socket, NNG_OPT_SENDFD, &w->send_fd);
    return r;
}

int ipc_wall_open(const char *url, bool listen, void (*on_pipe)(void *user), void *user,
                  struct ipc_wall **ret_wall)
{
    struct ipc_wall *w;
    int r;

    if (strncmp(url, "ipc://", 6) != 0 || url[6] == '\0')
        return -EINVAL;
    if (strlen(url + 6) > 107) /* sun_path of unix(7), with its NUL */
        return -ENAMETOOLONG;
    w = xcalloc(1, sizeof(*w));
    w->on_pipe = on_pipe;
    w->user = user;
    pthread_mutex_init(&w->lock, NULL);
    r = nng_pair0_open(&w->socket);
    if (r != 0)
        goto fail_open;
    r = open_socket(w);
    if (r == 0)
        r = open_endpoint(w, url, listen);
    if (r != 0)
        goto fail;
    *ret_wall = w;
    return 0;

fail:
    nng_close(w->socket);
fail_open:
    pthread_mutex_destroy(&w->lock);
    free(w);
    return errno_of(r);
}

void ipc_wall_close(struct ipc_wall *w)
{
    if (w == NULL)
        return;
    nng_close(w->socket); /* waits for its connections, so for their events too */
    pthread_mutex_destroy(&w->lock);
    free(w);
}

int ipc_wall_recv_fd(const struct ipc_wall *w)
{
    return w->recv_fd;
}

int ipc_wall_send_fd(const struct ipc_wall *w)
{
    return w->send_fd;
}

int ipc_wall_recv(struct ipc_wall *w, struct ipc_msg *ret)
{
    nng_msg *msg;
    int r = nng_recvmsg(w->socket, &msg, NNG_FLAG_NONBLOCK);

    if (r != 0)
        return -EAGAIN;
    ret->msg = msg;
    ret->data = bytes_of(nng_msg_body(msg), nng_msg_len(msg));
    ret->pipe = (uint32_t)nng_pipe_id(nng_msg_get_pipe(msg));
    return 0;
}

void ipc_wall_msg_free(struct nng_msg *msg)
{
    nng_msg_free(msg);
}

struct nng_msg *ipc_wall_msg_new(size_t len, uint8_t **ret_data)
{
    nng_msg *msg;

    if (nng_msg_alloc(&msg, len) != 0)
        PANIC("out of memory for a message of %zu bytes", len);
    *ret_data = nng_msg_body(msg);
    return msg;
}

int ipc_wall_send(struct ipc_wall *w, struct nng_msg *msg)
{
    int r = nng_sendmsg(w->socket, msg, NNG_FLAG_NONBLOCK);

    return r != 0 ? errno_of(r) : 0;
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

void ipc_wall_set_redial(struct ipc_wall *w, uint32_t after_ms)
{
    if (w->dialing)
        nng_dialer_set_ms(w->dialer, NNG_OPT_RECONNMINT,
                          (nng_duration)MAX(MIN(after_ms, (uint32_t)REDIAL_MAX_MS),
                                            (uint32_t)REDIAL_MIN_MS));
}
