#include <criterion/criterion.h>

#include <errno.h>
#include <nng/nng.h>
#include <nng/protocol/pair0/pair.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include "lib/ipc/ipc.h"
#include "lib/ipc/ipc_internal.h"
#include "lib/loop/loop.h"
#include "lib/util/xmalloc.h"

enum { TYPE_DATA = 16, TYPE_ECHO, TYPE_DIE };

static char dir[64], url[128];

static void make_dir(void)
{
    strcpy(dir, "/tmp/conclave-test-ipc-XXXXXX");
    cr_assert_not_null(mkdtemp(dir));
    snprintf(url, sizeof(url), "ipc://%s/link", dir);
}

static void remove_dir(void)
{
    cr_expect_eq(ipc_wall_messages_held(), 0, "messages leak");
    unlink(url + 6);
    rmdir(dir);
}

TestSuite(ipc, .init = make_dir, .fini = remove_dir, .timeout = 60);

/* One end of a link and what happened to it. */
struct end {
    struct loop *loop;
    struct ipc_link *link;
    const char *hello;      /* what it says */
    char peer_hello[32];    /* what it heard */
    int refusals;           /* refuse that many HELLOs */
    int ups, downs, writables;
    uint64_t next_id;       /* frames must come in order of id */
    uint64_t frames, bytes;
    bool echo;
};

static void fill_hello(void *user, struct buf *body)
{
    struct end *e = user;

    buf_append_bytes(body, bytes_str(e->hello));
}

static int on_hello(void *user, struct bytes body)
{
    struct end *e = user;

    cr_assert(body.len < sizeof(e->peer_hello));
    if (body.len != 0)
        memcpy(e->peer_hello, body.data, body.len);
    e->peer_hello[body.len] = '\0';
    if (e->refusals > 0) {
        e->refusals--;
        return -EPROTO;
    }
    return 0;
}

static void on_up(void *user)
{
    struct end *e = user;

    cr_assert_eq(e->ups, e->downs);
    e->ups++;
    e->next_id = 0;
}

static void on_down(void *user)
{
    struct end *e = user;

    e->downs++;
    cr_assert_eq(e->ups, e->downs);
    cr_assert_not(ipc_link_is_up(e->link));
    cr_assert_not(ipc_link_writable(e->link));
}

static void on_frame(void *user, const struct ipc_frame *frame)
{
    struct end *e = user;

    cr_assert_eq(e->ups, e->downs + 1, "frame while down");
    if (frame->type == TYPE_DATA)
        cr_assert_eq(frame->id, e->next_id++);
    e->frames++;
    e->bytes += frame->body.len;
    for (size_t i = 0; i < frame->body.len; i += 4093)
        cr_assert_eq(frame->body.data[i], (uint8_t)(i + frame->id));
    if (e->echo)
        ipc_link_send(e->link, TYPE_ECHO, frame->id, frame->body);
}

static void on_writable(void *user)
{
    struct end *e = user;

    e->writables++;
}

static const struct ipc_link_ops ops = {
    .fill_hello = fill_hello,
    .on_hello = on_hello,
    .on_up = on_up,
    .on_down = on_down,
    .on_frame = on_frame,
    .on_writable = on_writable,
};

static void start(struct end *e, struct loop *loop, bool listen, const char *hello,
                  size_t credit_bytes)
{
    struct ipc_link_args args = {.loop = loop, .name = hello, .url = url, .listen = listen,
                                 .credit_bytes = credit_bytes, .ops = &ops, .user = e};

    e->loop = loop;
    e->hello = hello;
    cr_assert_eq(ipc_link_start(&args, &e->link), 0);
}

/* The timeout of the test ends a wait that never comes true. */
#define WAIT_FOR(loop, condition)                                                                  \
    do {                                                                                           \
        while (!(condition))                                                                       \
            loop_run_once((loop), 100);                                                            \
    } while (0)

static void queue(struct end *e, uint64_t id, size_t len, bool secret)
{
    struct buf *b = ipc_link_begin(e->link, TYPE_DATA, id);
    uint8_t *p;

    cr_assert_not_null(b);
    if (secret)
        ipc_link_set_secret(e->link);
    p = buf_reserve(b, len);
    for (size_t i = 0; i < len; i++)
        p[i] = (uint8_t)(i + id);
    b->len += len;
    ipc_link_end(e->link);
}

static void send_data(struct end *e, uint64_t id, size_t len)
{
    queue(e, id, len, false);
}

static void send_secret(struct end *e, uint64_t id, size_t len)
{
    queue(e, id, len, true);
}

static struct ipc_link_stats stats(const struct end *e)
{
    struct ipc_link_stats s;

    ipc_link_get_stats(e->link, &s);
    return s;
}

Test(ipc, frames_come_in_order_and_in_batches)
{
    struct loop *loop = loop_new();
    struct end a = {.echo = true}, b = {0};

    start(&b, loop, false, "dialer", 0); /* before anyone listens */
    loop_run_once(loop, 1);
    cr_assert_not(ipc_link_is_up(b.link));
    cr_assert_null(ipc_link_begin(b.link, TYPE_DATA, 0));
    cr_assert_not(ipc_link_send(b.link, TYPE_DATA, 0, BYTES_EMPTY));
    start(&a, loop, true, "listener", 0);
    WAIT_FOR(loop, a.ups == 1 && b.ups == 1);
    cr_assert_str_eq(a.peer_hello, "dialer");
    cr_assert_str_eq(b.peer_hello, "listener");
    for (uint64_t id = 0; id < 1000; id++)
        send_data(&b, id, id % 100);
    WAIT_FOR(loop, b.frames == 1000);
    cr_assert_eq(a.frames, 1000);
    cr_assert_eq(a.bytes, b.bytes);
    cr_assert_eq(stats(&b).frames_sent, 1000 + 2);    /* two HELLOs */
    cr_assert_leq(stats(&b).batches_sent, 2 + 2 + 2); /* one batch, and maybe reports */
    cr_assert_eq(stats(&a).connects, 1);
    cr_assert_eq(stats(&a).stale_batches + stats(&b).stale_batches, 0);
    ipc_link_stop(a.link, 0);
    WAIT_FOR(loop, b.downs == 1);
    ipc_link_stop(b.link, 100);
    ipc_link_stop(NULL, 0);
    loop_free(loop);
}

Test(ipc, refused_hello_is_retried)
{
    struct loop *loop = loop_new();
    struct end a = {.refusals = 3}, b = {.refusals = 2};

    start(&a, loop, true, "listener", 0);
    start(&b, loop, false, "dialer", 0);
    WAIT_FOR(loop, a.refusals == 0 && b.refusals == 0 && ipc_link_is_up(a.link) &&
                       ipc_link_is_up(b.link));
    send_data(&a, 0, 10);
    WAIT_FOR(loop, b.frames == 1);
    cr_assert_geq(stats(&a).connects, 4);
    ipc_link_stop(b.link, 0);
    WAIT_FOR(loop, !ipc_link_is_up(a.link));
    ipc_link_stop(a.link, 0);
    loop_free(loop);
}

/* Each end on its own loop: an end whose loop is not run consumes nothing. */
Test(ipc, credit_runs_out_and_comes_back)
{
    struct loop *la = loop_new(), *lb = loop_new();
    struct end a = {0}, b = {0};
    uint64_t id = 0;

    start(&a, la, true, "listener", 1 << 20);
    start(&b, lb, false, "dialer", 64 << 10);
    while (a.ups == 0 || b.ups == 0) {
        loop_run_once(la, 1);
        loop_run_once(lb, 1);
    }
    while (ipc_link_writable(b.link)) {
        send_data(&b, id++, 1000);
        loop_run_once(lb, 0);
    }
    cr_assert(id >= 64 && id <= 66, "credit counts frame bytes");
    cr_assert_eq(b.writables, 0);
    send_data(&b, id++, 100000); /* an answer is always accepted */
    while (b.writables == 0) {
        loop_run_once(la, 1);
        loop_run_once(lb, 1);
    }
    cr_assert(ipc_link_writable(b.link));
    cr_assert_eq(b.writables, 1);
    while (a.frames < id)
        loop_run_once(la, 10);
    for (int round = 0; round < 2000; round++) { /* the window slides for ever */
        while (!ipc_link_writable(b.link)) {
            loop_run_once(la, 0);
            loop_run_once(lb, 0);
        }
        send_data(&b, id++, 1000);
    }
    while (a.frames < id) {
        loop_run_once(la, 1);
        loop_run_once(lb, 1);
    }
    ipc_link_stop(a.link, 0);
    ipc_link_stop(b.link, 0);
    loop_free(la);
    loop_free(lb);
}

Test(ipc, held_bytes_keep_the_credit_used)
{
    struct loop *la = loop_new(), *lb = loop_new();
    struct end a = {0}, b = {0};
    uint64_t id = 0;

    start(&a, la, true, "listener", 1 << 20);
    start(&b, lb, false, "dialer", 64 << 10);
    while (a.ups == 0 || b.ups == 0) {
        loop_run_once(la, 1);
        loop_run_once(lb, 1);
    }
    ipc_link_set_held(a.link, UINT64_MAX); /* whatever comes is not worked off */
    while (ipc_link_writable(b.link)) {
        send_data(&b, id++, 1000);
        loop_run_once(lb, 0);
    }
    while (a.frames < id) {
        loop_run_once(la, 1);
        loop_run_once(lb, 1);
    }
    for (int i = 0; i < 20; i++) {
        loop_run_once(la, 1);
        loop_run_once(lb, 1);
    }
    cr_assert_eq(b.writables, 0);
    ipc_link_set_held(a.link, 60000); /* a little is */
    for (int i = 0; i < 20; i++) {
        loop_run_once(la, 1);
        loop_run_once(lb, 1);
    }
    cr_assert_eq(b.writables, 0);
    ipc_link_set_held(a.link, 0);
    while (b.writables == 0) {
        loop_run_once(la, 1);
        loop_run_once(lb, 1);
    }
    ipc_link_stop(a.link, 0);
    ipc_link_stop(b.link, 0);
    loop_free(la);
    loop_free(lb);
}

Test(ipc, large_frames)
{
    struct loop *loop = loop_new();
    struct end a = {0}, b = {0};
    uint64_t id = 0;

    start(&a, loop, true, "listener", 0);
    start(&b, loop, false, "dialer", 0);
    WAIT_FOR(loop, a.ups == 1 && b.ups == 1);
    send_data(&b, id++, IPC_FRAME_BYTES_MAX);
    for (int i = 0; i < 40; i++)
        send_data(&b, id++, (1 << 20) - 100 + (size_t)i * 10000);
    send_data(&b, id++, 0);
    WAIT_FOR(loop, a.frames == id);
    cr_assert_eq(stats(&b).malformed + stats(&a).malformed, 0);
    cr_assert_eq(b.downs, 0);
    ipc_link_stop(a.link, 0);
    ipc_link_stop(b.link, 0);
    loop_free(loop);
}

static const struct {
    const char *url;
    bool listen;
    int error;
} start_rows[] = {
    {"tcp://127.0.0.1:1", true, -EINVAL},
    {"ipc://", true, -EINVAL},
    {"", false, -EINVAL},
    {"ipc:///tmp/0123456789012345678901234567890123456789012345678901234567890123456789012345678901"
     "2345678901234567890123456789",
     true, -ENAMETOOLONG},
    {"ipc:///nonexistent/dir/link", true, -ENOENT},
    {NULL, true, -EADDRINUSE},
};

/* Each leaves at once, in order with what was queued before, also while nng takes nothing. */
Test(ipc, secrets_keep_their_place)
{
    struct loop *loop = loop_new();
    struct end a = {0}, b = {0};
    uint64_t id = 0;

    start(&a, loop, true, "listener", 0);
    start(&b, loop, false, "dialer", 0);
    WAIT_FOR(loop, a.ups == 1 && b.ups == 1);
    for (size_t i = 0; i < 100; i++) {
        static const size_t lens[] = {0, 1, 100, 5000, 300000};

        send_data(&b, id++, i);
        send_secret(&b, id++, lens[i % ARRAY_LEN(lens)]);
    }
    send_data(&b, id++, 10);
    WAIT_FOR(loop, a.frames == id);
    cr_assert_eq(stats(&b).malformed + stats(&a).malformed, 0);
    cr_assert_geq(stats(&b).batches_sent, 100);
    cr_assert_eq(b.downs, 0);
    ipc_link_stop(a.link, 0);
    ipc_link_stop(b.link, 0);
    loop_free(loop);
}

Test(ipc, start_errors)
{
    struct loop *loop = loop_new();
    struct end a = {0}, e = {0};

    start(&a, loop, true, "first", 0);
    for (size_t i = 0; i < ARRAY_LEN(start_rows); i++) {
        struct ipc_link_args args = {.loop = loop, .name = "x", .listen = start_rows[i].listen,
                                     .url = start_rows[i].url != NULL ? start_rows[i].url : url,
                                     .ops = &ops, .user = &e};

        cr_assert_eq(ipc_link_start(&args, &e.link), start_rows[i].error, "row %zu", i);
    }
    ipc_link_stop(a.link, 0);
    loop_free(loop);
}

/* ---- against a raw nng socket ---- */

struct raw {
    nng_socket socket;
    uint64_t epoch, echo;
};

static void raw_open(struct raw *r, uint64_t epoch)
{
    *r = (struct raw){.epoch = epoch};
    cr_assert_eq(nng_pair0_open(&r->socket), 0);
    cr_assert_eq(nng_socket_set_ms(r->socket, NNG_OPT_RECVTIMEO, 20), 0);
    /* it calls once: a second connection would just be greeted when raw_close takes it down, and nng
     * 1.5.2 takes none down after one that ends between the head and the rest of a message */
    cr_assert_eq(nng_socket_set_ms(r->socket, NNG_OPT_RECONNMINT, 3600000), 0);
    cr_assert_eq(nng_socket_set_ms(r->socket, NNG_OPT_RECONNMAXT, 3600000), 0);
    cr_assert_eq(nng_dial(r->socket, url, NULL, 0), 0);
}

static void *close_socket(void *arg)
{
    nng_close((nng_socket){.id = (uint32_t)(uintptr_t)arg});
    return NULL;
}

/* In a thread: the close may take for ever when the other side closes too (ipc_wall_close). */
static void raw_close(struct raw *r)
{
    pthread_t thread;

    cr_assert_eq(pthread_create(&thread, NULL, close_socket, (void *)(uintptr_t)r->socket.id), 0);
    pthread_detach(thread);
}

static void raw_send(struct raw *r, uint64_t epoch, uint64_t echo, uint64_t consumed, uint16_t type,
                     uint64_t id)
{
    struct {
        struct ipc_batch_header h;
        struct ipc_frame_header f;
    } m = {
        {.magic = IPC_BATCH_MAGIC, .version = IPC_BATCH_VERSION, .epoch = epoch, .echo = echo,
         .consumed = consumed, .frame_count = 1, .credit_bytes = 1000000},
        {.type = type, .id = id},
    };

    cr_assert_eq(nng_send(r->socket, &m, sizeof(m), 0), 0);
}

/* Waits for a batch of the link, which must be a HELLO with that echo. */
static void raw_expect_hello(struct raw *r, struct end *e, uint64_t echo)
{
    struct ipc_batch_header h;
    nng_msg *msg;
    int err;

    for (int i = 1; (err = nng_recvmsg(r->socket, &msg, 0)) == NNG_ETIMEDOUT; i++) {
        loop_run_once(e->loop, 1);
        if (i % 100 == 0) /* its dialer may have gone silent, see ipc_link.c */
            nng_dial(r->socket, url, NULL, NNG_FLAG_NONBLOCK);
    }
    cr_assert_eq(err, 0);
    cr_assert_eq(ipc_batch_check(bytes_of(nng_msg_body(msg), nng_msg_len(msg)), &h), 0);
    nng_msg_free(msg);
    cr_assert_eq(h.echo, echo);
    cr_assert_eq(h.frame_count, 1);
    r->echo = h.epoch;
}

static void raw_greet(struct raw *r, struct end *e)
{
    raw_expect_hello(r, e, 0);
    raw_send(r, r->epoch, 0, 0, IPC_TYPE_HELLO, 0);
    raw_expect_hello(r, e, r->epoch);
    raw_send(r, r->epoch, r->echo, 0, IPC_TYPE_HELLO, 0);
    WAIT_FOR(e->loop, ipc_link_is_up(e->link));
}

Test(ipc, batches_of_other_epochs_are_dropped)
{
    struct loop *loop = loop_new();
    struct end a = {0};
    struct raw r;

    start(&a, loop, true, "listener", 0);
    raw_open(&r, 70);
    raw_expect_hello(&r, &a, 0);
    /* what an old process of ours queued for an old process of theirs */
    raw_send(&r, 60, 5, 0, IPC_TYPE_HELLO, 0);
    raw_send(&r, 60, 5, 0, TYPE_DATA, 0);
    raw_send(&r, 60, 0, 0, IPC_TYPE_HELLO, 0);
    raw_expect_hello(&r, &a, 60);
    raw_send(&r, 60, 5, 0, TYPE_DATA, 0);
    raw_send(&r, 60, 0, 0, TYPE_DATA, 0);
    cr_assert_not(ipc_link_is_up(a.link));
    raw_send(&r, 70, 0, 0, IPC_TYPE_HELLO, 0);
    raw_expect_hello(&r, &a, 70);
    raw_send(&r, 60, r.echo, 0, TYPE_DATA, 0); /* no HELLO yet */
    raw_send(&r, 70, r.echo, 0, IPC_TYPE_HELLO, 0);
    WAIT_FOR(loop, a.ups == 1);
    cr_assert_eq(a.frames, 0);
    cr_assert_eq(stats(&a).stale_batches, 5);
    raw_send(&r, 70, r.echo + 1, 0, TYPE_DATA, 0); /* echo of another connection */
    raw_send(&r, 60, r.echo, 0, TYPE_DATA, 0);     /* another sender */
    raw_send(&r, 70, 0, 0, IPC_TYPE_HELLO, 0);     /* late duplicate: harmless */
    raw_send(&r, 70, r.echo, 0, TYPE_DATA, 0);
    WAIT_FOR(loop, a.frames == 1);
    cr_assert_eq(stats(&a).stale_batches, 7);
    cr_assert_eq(a.downs, 0);
    cr_assert_eq(stats(&a).malformed, 0);
    raw_close(&r);
    WAIT_FOR(loop, a.downs == 1);
    ipc_link_stop(a.link, 0);
    loop_free(loop);
}

/* One valid batch with a frame of 8 bytes, damaged. `set`: 32-bit word at offset; len: sent length
 * relative to the whole. */
static const struct {
    const char *what;
    size_t offset;
    uint32_t set;
    int len;
} malformed_rows[] = {
    {"empty message", 0, 0, -64},
    {"half a header", 0, 0, -44},
    {"magic", 0, 0x12345678, 0},
    {"version", 4, 2, 0},
    {"consumed more than was sent", 24, 1, 0},
    {"more frames than bytes", 32, 2, 0},
    {"many more frames", 32, 0xffffffff, 0},
    {"fewer frames", 32, 0, 0},
    {"cut in the frame header", 0, 0, -14},
    {"cut in the body", 0, 0, -1},
    {"bytes after the last frame", 0, 0, 1},
    {"body longer than the batch", 40, 9, 0},
    {"body shorter", 40, 7, 0},
    {"body of 4 GiB", 40, 0xffffffff, 0},
    {"type 0", 44, 0, 0},
    {"reserved type", 44, 2, 0},
    {"reserved field", 44, 0x10000 + TYPE_DATA, 0},
};

Test(ipc, malformed_batch_costs_the_connection_only)
{
    struct loop *loop = loop_new();
    struct end a = {0};

    start(&a, loop, true, "listener", 0);
    for (size_t i = 0; i < ARRAY_LEN(malformed_rows); i++) {
        struct {
            struct ipc_batch_header h;
            struct ipc_frame_header f;
            uint8_t body[8], extra;
        } m = {.h = {.magic = IPC_BATCH_MAGIC, .version = IPC_BATCH_VERSION, .frame_count = 1},
               .f = {.body_len = 8, .type = TYPE_DATA}};
        struct raw r;

        raw_open(&r, 100 + i);
        raw_greet(&r, &a);
        m.h.epoch = r.epoch;
        m.h.echo = r.echo;
        if (malformed_rows[i].len == 0)
            memcpy((char *)&m + malformed_rows[i].offset, &malformed_rows[i].set, 4);
        cr_assert_eq(nng_send(r.socket, &m, (size_t)(64 + malformed_rows[i].len), 0), 0);
        WAIT_FOR(loop, a.downs == (int)i + 1);
        cr_assert_eq(stats(&a).malformed, i + 1, "%s", malformed_rows[i].what);
        cr_assert_eq(a.frames, 0, "%s", malformed_rows[i].what);
        raw_close(&r);
    }
    ipc_link_stop(a.link, 0);
    loop_free(loop);
}

static void on_wall_news(void *user)
{
    (void)user; /* ipc_wall_wait sees it too */
}

/* ---- who ends a connection while it is made ---- */

static int unix_socket(struct sockaddr_un *addr)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    cr_assert(fd >= 0);
    *addr = (struct sockaddr_un){.sun_family = AF_UNIX};
    cr_assert(strlen(url) - strlen("ipc://") < sizeof(addr->sun_path));
    strcpy(addr->sun_path, url + strlen("ipc://"));
    return fd;
}

Test(ipc, callers_that_hang_up_do_not_deafen_the_listener)
{
    struct loop *loop = loop_new();
    struct end a = {0}, b = {0};

    start(&a, loop, true, "listener", 0);
    for (int i = 0; i < 50; i++) {
        struct sockaddr_un addr;
        int fd = unix_socket(&addr);

        connect(fd, (struct sockaddr *)&addr, sizeof(addr)); /* refused by a deaf one: as good */
        close(fd);
    }
    start(&b, loop, false, "dialer", 0);
    WAIT_FOR(loop, a.ups == 1 && b.ups == 1);
    ipc_link_stop(b.link, 0);
    ipc_link_stop(a.link, 0);
    loop_free(loop);
}

Test(ipc, a_listener_that_hangs_up_does_not_silence_the_dialer)
{
    struct loop *loop = loop_new();
    struct end a = {0}, b = {0};
    struct sockaddr_un addr;
    int fd = unix_socket(&addr);

    cr_assert_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    cr_assert_eq(listen(fd, 16), 0);
    start(&b, loop, false, "dialer", 0);
    for (int i = 0; i < 50; i++) {
        struct pollfd p = {.fd = fd, .events = POLLIN};

        if (poll(&p, 1, 300) == 0) /* three times the longest pause between calls: silenced */
            break;
        close(accept4(fd, NULL, NULL, SOCK_CLOEXEC));
    }
    close(fd);
    unlink(addr.sun_path);
    start(&a, loop, true, "listener", 0);
    WAIT_FOR(loop, a.ups == 1 && b.ups == 1);
    ipc_link_stop(b.link, 0);
    ipc_link_stop(a.link, 0);
    loop_free(loop);
}

static void *close_fd(void *user)
{
    close(*(int *)user);
    return NULL;
}

/* A connection that the wall has. One that comes while nng still takes the last one down is refused:
 * then another try. */
static int connection_to(struct ipc_wall *w)
{
    static const uint8_t greeting[8] = {0, 'S', 'P', 0, 0, 0x10, 0, 0}; /* pair0 */
    uint8_t answer[8];

    for (;;) {
        struct sockaddr_un addr;
        int fd = unix_socket(&addr);

        cr_assert_eq(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
        cr_assert_eq(write(fd, greeting, sizeof(greeting)), sizeof(greeting));
        cr_assert_eq(recv(fd, answer, sizeof(answer), MSG_WAITALL), sizeof(answer));
        while (ipc_wall_newest_pipe(w) == 0 && recv(fd, answer, 1, MSG_DONTWAIT) < 0)
            ipc_wall_wait(w, 10);
        if (ipc_wall_newest_pipe(w) != 0)
            return fd;
        close(fd);
    }
}

/* nng 1.5.2 loses, for good, the message it is given while it takes a connection down. All others are
 * freed, and the wall goes on. */
Test(ipc, connections_end_while_messages_are_sent)
{
    struct ipc_wall *w;

    cr_assert_eq(ipc_wall_open(url, true, on_wall_news, NULL, &w), 0);
    for (int i = 0; i < 100; i++) {
        int fd = connection_to(w);
        pthread_t thread;
        struct nng_msg *msg;
        uint8_t *data;

        cr_assert_eq(pthread_create(&thread, NULL, close_fd, &fd), 0);
        while (ipc_wall_newest_pipe(w) != 0) {
            msg = ipc_wall_msg_new(100, &data);
            memset(data, 0, 100);
            if (ipc_wall_send(w, msg) != 0)
                ipc_wall_msg_free(msg);
        }
        pthread_join(thread, NULL);
    }
    ipc_wall_close(w);
}

Test(ipc, changed_epoch_within_a_connection_is_refused)
{
    struct loop *loop = loop_new();
    struct end a = {0};
    struct raw r;

    start(&a, loop, true, "listener", 0);
    raw_open(&r, 7);
    raw_greet(&r, &a);
    raw_send(&r, 8, r.echo, 0, IPC_TYPE_HELLO, 0);
    WAIT_FOR(loop, a.downs == 1);
    cr_assert_eq(stats(&a).malformed, 1);
    raw_close(&r);
    ipc_link_stop(a.link, 0);
    loop_free(loop);
}

Test(ipc, second_dialer_gets_in_when_the_first_is_gone)
{
    struct loop *loop = loop_new();
    struct end a = {0}, b = {0}, c = {0};

    start(&a, loop, true, "listener", 0);
    start(&b, loop, false, "first", 0);
    WAIT_FOR(loop, a.ups == 1 && b.ups == 1);
    start(&c, loop, false, "second", 0);
    for (int i = 0; i < 20; i++) { /* b is served while c knocks */
        send_data(&b, (uint64_t)i, 100);
        WAIT_FOR(loop, a.frames == (uint64_t)i + 1);
        loop_run_once(loop, 5);
    }
    cr_assert_eq(c.ups, 0);
    cr_assert_eq(a.ups, 1);
    cr_assert_str_eq(a.peer_hello, "first");
    ipc_link_stop(b.link, 0);
    WAIT_FOR(loop, a.ups == 2 && c.ups == 1);
    cr_assert_str_eq(a.peer_hello, "second");
    send_data(&c, 0, 100);
    WAIT_FOR(loop, a.frames == 21);
    ipc_link_stop(c.link, 0);
    ipc_link_stop(a.link, 0);
    loop_free(loop);
}

/* ---- across processes ---- */

/* ipc_peer lies beside this program. */
static pid_t spawn(bool listen, const char *role)
{
    char self[4096] = {0}, *program;
    pid_t pid;

    cr_assert(readlink("/proc/self/exe", self, sizeof(self) - 1) > 0);
    *strrchr(self, '/') = '\0';
    program = xasprintf("%s/ipc_peer", self);
    pid = fork();
    cr_assert(pid >= 0);
    if (pid == 0) {
        execl(program, program, url, listen ? "listen" : "dial", role, NULL);
        _exit(127);
    }
    free(program);
    return pid;
}

static int reap(pid_t pid)
{
    int status;

    cr_assert_eq(waitpid(pid, &status, 0), pid);
    return status;
}

/* SIGKILL, also with a listener's socket file left behind, with sends in flight. */
static void peer_is_killed(bool child_listens)
{
    enum { LIVES = 4 };
    struct loop *loop = loop_new();
    struct end a = {0};

    start(&a, loop, !child_listens, "parent", 0);
    for (int i = 0; i < LIVES; i++) {
        pid_t child = spawn(child_listens, "serve");

        a.frames = 0;
        WAIT_FOR(loop, a.ups == i + 1);
        for (uint64_t id = 0; id < 100; id++)
            send_data(&a, id, 100);
        WAIT_FOR(loop, a.frames == 100);
        if (i == 1) { /* many messages queued in nng and the kernel, and behind them */
            kill(child, SIGSTOP);
            for (uint64_t id = 100; id < 140; id++) {
                send_data(&a, id, 500000);
                loop_run_once(loop, 0);
            }
            cr_assert_not(ipc_link_writable(a.link));
            cr_assert(ipc_link_is_up(a.link));
        }
        if (i == 2)
            ipc_link_send(a.link, TYPE_DIE, 0, BYTES_EMPTY);
        else
            kill(child, SIGKILL);
        WAIT_FOR(loop, a.downs == i + 1);
        cr_assert(WIFSIGNALED(reap(child)));
    }
    cr_assert_eq(stats(&a).malformed, 0);
    ipc_link_stop(a.link, 1000);
    loop_free(loop);
}

Test(ipc, dialing_peer_is_killed)
{
    peer_is_killed(false);
}

Test(ipc, listening_peer_is_killed)
{
    peer_is_killed(true);
}

Test(ipc, stopped_peer_keeps_the_link_and_uses_up_its_credit)
{
    struct loop *loop = loop_new();
    struct end a = {0};
    uint64_t id = 0;
    pid_t child;

    start(&a, loop, true, "parent", 1 << 20);
    child = spawn(false, "serve");
    WAIT_FOR(loop, a.ups == 1);
    kill(child, SIGSTOP);
    while (ipc_link_writable(a.link)) {
        send_data(&a, id++, 10000);
        loop_run_once(loop, 0);
    }
    cr_assert(ipc_link_is_up(a.link));
    kill(child, SIGCONT);
    WAIT_FOR(loop, a.writables == 1 && a.frames == id);
    cr_assert_eq(a.downs, 0);
    kill(child, SIGKILL);
    reap(child);
    WAIT_FOR(loop, a.downs == 1);
    ipc_link_stop(a.link, 0);
    loop_free(loop);
}

Test(ipc, stop_delivers_what_was_queued)
{
    struct loop *loop = loop_new();
    struct end a = {0};
    pid_t child;

    start(&a, loop, true, "parent", 0);
    child = spawn(false, "send");
    WAIT_FOR(loop, a.downs == 1);
    cr_assert_eq(a.frames, 20000);
    cr_assert_eq(reap(child), 0);
    ipc_link_stop(a.link, 0);
    loop_free(loop);
}
