/* The backend between two daemons that the test plays: each call ends exactly once, whatever the
 * other sides do. */
#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "gatewayd/backend.h"
#include "lib/ipc/ipc.h"
#include "lib/loop/loop.h"
#include "lib/proto/messages.h"
#include "lib/proto/outcome.h"
#include "lib/util/buf.h"

enum { MEMBER = 7, CLUSTER = 9, FRAMES_MAX = 64 };

/* raftd or stored: what it got, in order. */
struct side {
    enum proto_daemon daemon;
    char url[96];
    struct ipc_link *link;
    bool up;
    struct {
        uint16_t type;
        uint64_t id;
    } frames[FRAMES_MAX];
    size_t frame_count;
};

/* A call and how often it ended. */
struct probe {
    struct backend_call call;
    int ends, outcome;
    size_t bytes;
};

static char dir[64];
static struct loop *loop;
static struct side raftd, stored;
static struct backend *backend;

static void fill_hello(void *user, struct buf *body)
{
    struct side *s = user;

    proto_hello_encode(body, &(struct proto_hello){.daemon = s->daemon,
                                                   .generation = 3,
                                                   .cluster_id = CLUSTER,
                                                   .member_id = MEMBER});
}

static int on_hello(void *user, struct bytes body)
{
    struct proto_hello hello;

    return proto_hello_decode(body, &hello);
}

static void on_up(void *user)
{
    ((struct side *)user)->up = true;
}

static void on_down(void *user)
{
    ((struct side *)user)->up = false;
}

static void on_frame(void *user, const struct ipc_frame *f)
{
    struct side *s = user;

    cr_assert_lt(s->frame_count, (size_t)FRAMES_MAX);
    s->frames[s->frame_count].type = f->type;
    s->frames[s->frame_count++].id = f->id;
}

static const struct ipc_link_ops side_ops = {.fill_hello = fill_hello,
                                             .on_hello = on_hello,
                                             .on_up = on_up,
                                             .on_down = on_down,
                                             .on_frame = on_frame};

#define WAIT(cond)                                                                                 \
    do {                                                                                           \
        uint64_t until_ = loop_clock_ns() + 20000000000u;                                          \
                                                                                                   \
        while (!(cond)) {                                                                          \
            loop_run_once(loop, 20);                                                               \
            cr_assert(loop_clock_ns() < until_, "not within 20 s: %s", #cond);                     \
        }                                                                                          \
    } while (0)

static void side_start(struct side *s, enum proto_daemon daemon, const char *name)
{
    s->daemon = daemon;
    snprintf(s->url, sizeof(s->url), "ipc://%s/%s.gw0", dir, name);
    s->up = false;
    s->frame_count = 0;
    cr_assert_eq(ipc_link_start(&(struct ipc_link_args){.loop = loop,
                                                        .name = name,
                                                        .url = s->url,
                                                        .listen = true,
                                                        .ops = &side_ops,
                                                        .user = s},
                                &s->link),
                 0);
}

static void side_stop(struct side *s)
{
    ipc_link_stop(s->link, 0);
    unlink(s->url + 6);
    s->up = false;
}

static void setup(void)
{
    strcpy(dir, "/tmp/conclave-test-backend-XXXXXX");
    cr_assert_not_null(mkdtemp(dir));
    loop = loop_new();
    side_start(&raftd, PROTO_DAEMON_RAFTD, "raftd");
    side_start(&stored, PROTO_DAEMON_STORED, "stored");
    cr_assert_eq(backend_new(&(struct backend_args){.loop = loop,
                                                    .run_dir = dir,
                                                    .generation = 5,
                                                    .request_timeout_ms = 400,
                                                    .inflight_bytes_max = 1 << 20},
                             &backend),
                 0);
    WAIT(raftd.up && stored.up && backend_ready(backend));
}

static void teardown(void)
{
    backend_free(backend);
    side_stop(&raftd);
    side_stop(&stored);
    loop_free(loop);
    rmdir(dir);
}

TestSuite(backend, .init = setup, .fini = teardown, .timeout = 60);

static void done(struct backend_call *call, int outcome, struct bytes part, uint64_t total_bytes)
{
    struct probe *p = (struct probe *)call;

    cr_expect_eq(p->ends, 0, "ended before");
    p->bytes += part.len;
    p->outcome = outcome;
    p->ends += outcome != OUT_OK || p->bytes == total_bytes;
}

static void read_begin(struct probe *p)
{
    *p = (struct probe){.call = {.done = done, .body = BYTES_LIT("range")}};
    backend_read(backend, &p->call, PROTO_READ_RANGE, true);
}

static void propose_begin(struct probe *p)
{
    *p = (struct probe){.call = {.done = done, .body = BYTES_LIT("put")}};
    backend_propose(backend, &p->call, PROTO_KIND_PUT);
}

static void send_part(uint64_t id, int outcome, const char *part, uint64_t total)
{
    struct buf *b = ipc_link_begin(stored.link, PROTO_RESULT, id);

    cr_assert_not_null(b);
    proto_result_encode(b, &(struct proto_result){.outcome = (uint16_t)outcome,
                                                  .total_bytes = total,
                                                  .part = bytes_str(part)});
    ipc_link_end(stored.link);
}

static void pass_ms(uint64_t ms)
{
    uint64_t until = loop_clock_ns() + ms * 1000000;

    WAIT(loop_clock_ns() >= until);
}

/* A client on a slow line takes longer for a large answer than a request may take to begin. */
Test(backend, a_long_answer_has_no_time_limit)
{
    struct probe p;

    read_begin(&p);
    WAIT(stored.frame_count == 1);
    send_part(p.call.id, OUT_OK, "first", 10);
    WAIT(p.bytes == 5);
    pass_ms(900);
    send_part(p.call.id, OUT_OK, "later", 10);
    WAIT(p.ends == 1);
    cr_expect_eq(p.outcome, OUT_OK);
    cr_expect_eq(p.bytes, 10u);
    cr_expect_eq(stored.frame_count, 1u, "a CANCEL was sent");

    /* but the client's own limit holds */
    p = (struct probe){.call = {.done = done, .body = BYTES_LIT("range")}};
    p.call.deadline_ns = loop_now_ns(loop) + 300000000;
    backend_read(backend, &p.call, PROTO_READ_RANGE, false);
    WAIT(stored.frame_count == 2);
    send_part(p.call.id, OUT_OK, "first", 10);
    WAIT(p.ends == 1);
    cr_expect_eq(p.outcome, OUT_TIMEOUT);
    WAIT(stored.frame_count == 3);
    cr_expect_eq(stored.frames[2].type, PROTO_CANCEL);
}

/* An answer that does not begin ends in time, and what comes after that finds nothing. */
Test(backend, ends_once)
{
    struct probe late, answered, twice;
    struct buf *b;

    read_begin(&late);
    WAIT(late.ends == 1);
    cr_expect_eq(late.outcome, OUT_TIMEOUT);
    send_part(late.call.id, OUT_OK, "late", 4);

    propose_begin(&answered);
    propose_begin(&twice);
    WAIT(raftd.frame_count == 2);
    send_part(answered.call.id, OUT_OK, "", 0);
    send_part(answered.call.id, OUT_OK, "", 0);
    b = ipc_link_begin(raftd.link, PROTO_PROPOSE_FAILED, twice.call.id);
    proto_outcome_encode(b, &(struct proto_outcome){.outcome = OUT_TIMEOUT_LEADER_FAIL});
    ipc_link_end(raftd.link);
    WAIT(twice.ends == 1 && answered.ends == 1);
    cr_expect_eq(answered.outcome, OUT_OK);
    cr_expect_eq(twice.outcome, OUT_TIMEOUT_LEADER_FAIL);
    send_part(twice.call.id, OUT_OK, "", 0);
    pass_ms(100);
    cr_expect_eq(backend_call_count(backend), 0u);
    cr_expect_eq(late.ends + answered.ends + twice.ends, 3);
}

/* stored goes away: what it had not begun to answer is asked again, a begun answer cannot go on,
 * and a proposal is never made a second time. */
Test(backend, stored_restarts)
{
    struct probe fresh, begun, put;

    read_begin(&fresh);
    read_begin(&begun);
    propose_begin(&put);
    WAIT(stored.frame_count == 2 && raftd.frame_count == 1);
    send_part(begun.call.id, OUT_OK, "first", 10);
    WAIT(begun.bytes == 5);
    side_stop(&stored);
    WAIT(begun.ends == 1 && put.ends == 1);
    cr_expect_eq(begun.outcome, OUT_TIMEOUT_CONN_LOST);
    cr_expect_eq(put.outcome, OUT_TIMEOUT_CONN_LOST);
    cr_expect_eq(fresh.ends, 0);
    side_start(&stored, PROTO_DAEMON_STORED, "stored");
    WAIT(stored.frame_count == 1);
    cr_expect_eq(stored.frames[0].id, fresh.call.id);
    send_part(fresh.call.id, OUT_OK, "again", 5);
    send_part(put.call.id, OUT_OK, "", 0);
    WAIT(fresh.ends == 1);
    cr_expect_eq(fresh.outcome, OUT_OK);
    pass_ms(100);
    cr_expect_eq(raftd.frame_count, 1u);
    cr_expect_eq(backend_call_count(backend), 0u);
}
