/* stored as a whole, with its real links: this test is raftd and gatewayd. Everything runs on one
 * loop, so `until` turns it until something is true. */
#include <criterion/criterion.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/bbolt/snapshot_file.h"
#include "lib/ipc/ipc.h"
#include "lib/loop/loop.h"
#include "lib/proto/outcome.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/pb.h"
#include "lib/wire/wire.h"
#include "stored/kv/store_alarms.h"
#include "stored/stored.h"

enum { MEMBER = 0x8e9e05c5, CLUSTER = 0xcdf81819, GENERATION = 7, TERM = 2, ANSWERS_MAX = 64 };

struct answer {
    uint64_t id;
    int outcome;
    uint64_t total_bytes;
    struct buf message;
    unsigned int parts;
};

/* One stored with the raftd and the gatewayd that talk to it. */
struct side {
    char dir[80];
    struct stored_conf conf;
    struct stored s;
    bool running, ready, stopped;
    char *fatal;
    /* as raftd */
    struct ipc_link *raftd;
    uint64_t cluster_id, member_id;
    bool raftd_up;
    unsigned int hello_count;
    struct proto_hello hello;
    struct proto_applied applied;
    uint64_t next_index;
    unsigned int barrier_count, role_ack_count, members_count;
    uint64_t barrier_id;
    struct buf members;
    struct buf own; /* the newest PROPOSE_OWN */
    unsigned int forward_count;
    uint64_t forward_id;
    struct buf snap_meta;
    struct buf *snap_chunks; /* bodies */
    size_t snap_chunk_count;
    bool snap_last;
    bool snap_hold; /* do not ack */
    uint64_t snap_acked;
    int staged, done; /* outcome, -1 before */
    /* as gatewayd */
    struct ipc_link *gateway;
    bool gateway_up;
    struct answer answers[ANSWERS_MAX];
    size_t answer_count;
    uint64_t next_id;
    struct proto_space space; /* as told last */
};

static struct loop *loop;

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

#define until(cond)                                                                                \
    do {                                                                                           \
        while (!(cond))                                                                            \
            loop_run_once(loop, 1000);                                                             \
    } while (0)

/* Turns the loop a few times: long enough for what must not happen to happen. */
static void settle(void)
{
    for (int i = 0; i < 20; i++)
        loop_run_once(loop, 2);
}

/* ---- as raftd ---- */

static void raftd_fill_hello(void *user, struct buf *body)
{
    struct side *d = user;

    proto_hello_encode(body, &(struct proto_hello){.daemon = PROTO_DAEMON_RAFTD,
                                                   .generation = 1,
                                                   .cluster_id = d->cluster_id,
                                                   .member_id = d->member_id});
}

static int raftd_on_hello(void *user, struct bytes body)
{
    struct side *d = user;

    d->hello_count++;
    cr_assert_eq(proto_hello_decode(body, &d->hello), 0);
    d->hello.conf_state = BYTES_EMPTY;
    d->next_index = d->hello.applied_index + 1;
    return 0;
}

static void raftd_on_up(void *user)
{
    struct side *d = user;

    d->raftd_up = true;
}

static void raftd_on_down(void *user)
{
    struct side *d = user;

    d->raftd_up = false;
}

static void snap_chunk(struct side *d, const struct ipc_frame *f)
{
    struct proto_snap_chunk chunk;
    struct buf *b;

    cr_assert_eq(proto_snap_chunk_decode(f->body, &chunk), 0);
    d->snap_chunks = xreallocarray(d->snap_chunks, d->snap_chunk_count + 1, sizeof(struct buf));
    d->snap_chunks[d->snap_chunk_count] = BUF_INIT;
    buf_append_bytes(&d->snap_chunks[d->snap_chunk_count++], f->body);
    d->snap_last = chunk.last;
    if (d->snap_hold)
        return;
    b = ipc_link_begin(d->raftd, PROTO_SNAP_ACK, f->id);
    proto_u64_encode(b, &(struct proto_u64){chunk.offset + chunk.data.len});
    ipc_link_end(d->raftd);
}

static void raftd_on_frame(void *user, const struct ipc_frame *f)
{
    struct side *d = user;
    struct proto_outcome outcome;
    struct proto_u64 bytes;

    switch (f->type) {
    case PROTO_APPLIED:
        cr_assert_eq(proto_applied_decode(f->body, &d->applied), 0);
        cr_assert_leq(d->applied.durable_index, d->applied.applied_index);
        break;
    case PROTO_READ_BARRIER:
        d->barrier_count++;
        d->barrier_id = f->id;
        break;
    case PROTO_ROLE_ACK:
        d->role_ack_count++;
        break;
    case PROTO_MEMBERS:
        d->members_count++;
        buf_clear(&d->members);
        buf_append_bytes(&d->members, f->body);
        break;
    case PROTO_PROPOSE_OWN:
        buf_clear(&d->own);
        buf_append_bytes(&d->own, f->body);
        break;
    case PROTO_FORWARD:
        d->forward_count++;
        d->forward_id = f->id;
        break;
    case PROTO_SNAP_META:
        buf_clear(&d->snap_meta);
        buf_append_bytes(&d->snap_meta, f->body);
        break;
    case PROTO_SNAP_CHUNK:
        snap_chunk(d, f);
        break;
    case PROTO_SNAP_ACK:
        cr_assert_eq(proto_u64_decode(f->body, &bytes), 0);
        d->snap_acked = bytes.value;
        break;
    case PROTO_SNAP_STAGED:
        cr_assert_eq(proto_outcome_decode(f->body, &outcome), 0);
        d->staged = outcome.outcome;
        break;
    case PROTO_SNAP_DONE:
        cr_assert_eq(proto_outcome_decode(f->body, &outcome), 0);
        d->done = outcome.outcome;
        break;
    default:
        cr_assert_fail("frame of type %u", (unsigned int)f->type);
    }
}

static const struct ipc_link_ops raftd_ops = {
    .fill_hello = raftd_fill_hello,
    .on_hello = raftd_on_hello,
    .on_up = raftd_on_up,
    .on_down = raftd_on_down,
    .on_frame = raftd_on_frame,
};

/* ---- as gatewayd ---- */

static void gateway_fill_hello(void *user, struct buf *body)
{
    proto_hello_encode(
        body, &(struct proto_hello){.daemon = PROTO_DAEMON_GATEWAYD, .generation = GENERATION});
}

static int gateway_on_hello(void *user, struct bytes body)
{
    struct proto_hello m;

    cr_assert_eq(proto_hello_decode(body, &m), 0);
    cr_assert_eq(m.daemon, PROTO_DAEMON_STORED);
    return 0;
}

static void gateway_on_up(void *user)
{
    struct side *d = user;

    d->gateway_up = true;
}

static void gateway_on_down(void *user)
{
    struct side *d = user;

    d->gateway_up = false;
}

static struct answer *answer_of(struct side *d, uint64_t id)
{
    for (size_t i = 0; i < d->answer_count; i++) {
        if (d->answers[i].id == id)
            return &d->answers[i];
    }
    return NULL;
}

static void gateway_on_frame(void *user, const struct ipc_frame *f)
{
    struct side *d = user;
    struct answer *a = answer_of(d, f->id);
    struct proto_result m;

    if (f->type == PROTO_AUTH_CHANGED)
        return;
    if (f->type == PROTO_SPACE) {
        cr_assert_eq(proto_space_decode(f->body, &d->space), 0);
        return;
    }
    cr_assert_eq(f->type, PROTO_RESULT);
    cr_assert_eq(proto_result_decode(f->body, &m), 0);
    if (a == NULL) {
        cr_assert_lt(d->answer_count, ANSWERS_MAX);
        a = &d->answers[d->answer_count++];
        a->id = f->id;
        a->message = BUF_INIT;
        a->parts = 0;
    }
    a->outcome = m.outcome;
    a->total_bytes = m.total_bytes;
    a->parts++;
    buf_append_bytes(&a->message, m.part);
    cr_assert(m.outcome != OUT_OK || a->message.len <= m.total_bytes);
}

static const struct ipc_link_ops gateway_ops = {
    .fill_hello = gateway_fill_hello,
    .on_hello = gateway_on_hello,
    .on_up = gateway_on_up,
    .on_down = gateway_on_down,
    .on_frame = gateway_on_frame,
};

static bool answered(struct side *d, uint64_t id)
{
    const struct answer *a = answer_of(d, id);

    return a != NULL && (a->outcome != OUT_OK || a->message.len == a->total_bytes);
}

/* ---- life ---- */

static void on_ready(void *user)
{
    struct side *d = user;

    d->ready = true;
}

static void on_stopped(void *user)
{
    struct side *d = user;

    d->stopped = true;
}

static void on_fatal(void *user, const char *text)
{
    struct side *d = user;

    if (d->fatal == NULL)
        d->fatal = xstrdup(text);
}

static struct ipc_link *link_start(struct side *d, const char *name, bool listen,
                                   const struct ipc_link_ops *ops)
{
    CLEANUP(freep) char *url = xasprintf("ipc://%s/%s", d->dir, name);
    struct ipc_link *link = NULL;

    cr_assert_eq(
        ipc_link_start(
            &(struct ipc_link_args){
                .loop = loop, .name = name, .url = url, .listen = listen, .ops = ops, .user = d},
            &link),
        0);
    return link;
}

static void raftd_start(struct side *d)
{
    d->raftd = link_start(d, "raftd.stored", true, &raftd_ops);
}

static void raftd_stop(struct side *d)
{
    ipc_link_stop(TAKE(d->raftd), 0);
    d->raftd_up = false;
}

static void stored_up(struct side *d)
{
    struct stored_args args = {
        .loop = loop,
        .conf = &d->conf,
        .run_dir = d->dir,
        .generation = 3,
        .ready = on_ready,
        .stopped = on_stopped,
        .fatal = on_fatal,
        .user = d,
    };

    memset(&d->s, 0, sizeof(d->s));
    d->ready = false;
    d->stopped = false;
    cr_assert_eq(stored_open(&d->s, &args), 0);
    cr_assert_eq(stored_start(&d->s), 0);
    d->running = true;
}

static void stored_down(struct side *d)
{
    if (!d->running)
        return;
    stored_stop(&d->s);
    cr_assert(d->stopped);
    stored_close(&d->s);
    d->running = false;
}

static void forget_answers(struct side *d)
{
    for (size_t i = 0; i < d->answer_count; i++)
        buf_fini(&d->answers[i].message);
    d->answer_count = 0;
}

static void side_init(struct side *d)
{
    memset(d, 0, sizeof(*d));
    snprintf(d->dir, sizeof(d->dir), "/tmp/test_stored.XXXXXX");
    cr_assert_not_null(mkdtemp(d->dir));
    d->cluster_id = CLUSTER;
    d->member_id = MEMBER;
    d->next_id = 100;
    d->staged = -1;
    d->done = -1;
    d->conf = (struct stored_conf){
        .data_dir = xasprintf("%s/data", d->dir),
        .value_cache_bytes = 1 << 20,
        .gateway_count = 1,
        .checkpoint_entries = 1000000,
    };
}

static void side_up(struct side *d)
{
    stored_up(d);
    raftd_start(d);
    d->gateway = link_start(d, "stored.gw0", false, &gateway_ops);
    until(d->raftd_up && d->gateway_up);
}

static void side_fini(struct side *d)
{
    stored_down(d);
    ipc_link_stop(d->raftd, 0);
    ipc_link_stop(d->gateway, 0);
    forget_answers(d);
    for (size_t i = 0; i < d->snap_chunk_count; i++)
        buf_fini(&d->snap_chunks[i]);
    free(d->snap_chunks);
    buf_fini(&d->snap_meta);
    buf_fini(&d->members);
    buf_fini(&d->own);
    free(d->conf.data_dir);
    free(d->fatal);
    nftw(d->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static struct side one, two;

static void setup(void)
{
    loop = loop_new();
    side_init(&one);
    side_up(&one);
}

static void teardown(void)
{
    side_fini(&one);
    if (two.dir[0] != '\0')
        side_fini(&two);
    loop_free(loop);
}

TestSuite(stored, .init = setup, .fini = teardown, .timeout = 60);

/* ---- requests ---- */

static uint64_t commit(struct side *d, enum proto_kind kind, uint64_t origin, uint64_t generation,
                       struct bytes body)
{
    CLEANUP(buf_fini) struct buf payload = BUF_INIT;
    CLEANUP(buf_fini) struct buf entry = BUF_INIT;
    uint64_t id = d->next_id++;

    proto_payload_encode(&payload, &(struct proto_payload){.kind = kind,
                                                           .origin_member = origin,
                                                           .origin_generation = generation,
                                                           .request_id = id,
                                                           .body = body});
    proto_entry_encode(
        &entry,
        &(struct proto_entry){.index = d->next_index++, .term = TERM, .data = buf_bytes(&payload)});
    cr_assert(ipc_link_send(d->raftd, PROTO_COMMITTED, 0, buf_bytes(&entry)));
    return id;
}

static void put_request(struct buf *b, const char *key, struct bytes value)
{
    pb_put_bytes(b, 1, bytes_str(key));
    pb_put_bytes(b, 2, value);
}

static uint64_t put(struct side *d, const char *key, const char *value)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    put_request(&b, key, bytes_str(value));
    return commit(d, PROTO_KIND_PUT, MEMBER, GENERATION, buf_bytes(&b));
}

static void apply_all(struct side *d)
{
    until(d->applied.applied_index >= d->next_index - 1);
}

static void put_many(struct side *d, unsigned int count, size_t value_len)
{
    CLEANUP(freep) char *value = xcalloc(1, value_len + 1);
    char key[32];

    memset(value, 'v', value_len);
    for (unsigned int i = 0; i < count; i++) {
        CLEANUP(buf_fini) struct buf b = BUF_INIT;

        snprintf(key, sizeof(key), "many/%08u", i);
        put_request(&b, key, bytes_of(value, value_len));
        commit(d, PROTO_KIND_PUT, MEMBER + 1, 1, buf_bytes(&b));
        if (i % 64 == 63)
            apply_all(d);
    }
    apply_all(d);
}

static void read_start(struct side *d, uint64_t id, enum proto_read_kind kind, bool linearizable,
                       struct bytes body)
{
    struct buf *b = ipc_link_begin(d->gateway, PROTO_READ, id);

    cr_assert_not_null(b);
    proto_read_encode(
        b, &(struct proto_read){.kind = kind, .linearizable = linearizable, .body = body});
    ipc_link_end(d->gateway);
}

static uint64_t get(struct side *d, const char *key, bool linearizable)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;
    uint64_t id = d->next_id++;

    pb_put_bytes(&b, 1, bytes_str(key));
    read_start(d, id, PROTO_READ_RANGE, linearizable, buf_bytes(&b));
    return id;
}

static uint64_t get_all(struct side *d)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;
    uint64_t id = d->next_id++;

    pb_put_bytes(&b, 1, BYTES_LIT("\0"));
    pb_put_bytes(&b, 2, BYTES_LIT("\0"));
    read_start(d, id, PROTO_READ_RANGE, false, buf_bytes(&b));
    return id;
}

/* RangeResponse: header 1, kvs 2, count 4. KeyValue: value 5. */
static struct bytes first_value(struct side *d, uint64_t id, uint64_t *ret_count)
{
    struct pb_reader r, kv;
    struct pb_field f, g;
    struct bytes value = BYTES_EMPTY;
    const struct answer *a;

    until(answered(d, id));
    a = answer_of(d, id);
    cr_assert_eq(a->outcome, OUT_OK, "%s", outcome_name(a->outcome));
    *ret_count = 0;
    r = pb_reader(buf_bytes(&a->message));
    while (pb_next(&r, &f)) {
        if (f.number == 4)
            *ret_count = f.value;
        if (f.number != 2 || value.len != 0)
            continue;
        kv = pb_reader(f.bytes);
        while (pb_next(&kv, &g)) {
            if (g.number == 5)
                value = g.bytes;
        }
    }
    cr_assert(!r.bad);
    return value;
}

static void expect_value(struct side *d, uint64_t id, const char *value)
{
    uint64_t count;
    struct bytes got = first_value(d, id, &count);

    if (value == NULL) {
        cr_assert_eq(count, 0);
        return;
    }
    cr_assert_eq(count, 1);
    cr_assert(bytes_eq(got, bytes_str(value)), "%.*s", (int)got.len, (const char *)got.data);
}

static void expect_outcome(struct side *d, uint64_t id, int outcome)
{
    until(answered(d, id));
    cr_assert_eq(answer_of(d, id)->outcome, outcome, "%s", outcome_name(answer_of(d, id)->outcome));
}

static void send_role(struct side *d, uint64_t commit_index, bool local_reads)
{
    struct buf *b = ipc_link_begin(d->raftd, PROTO_ROLE, 1);

    proto_raft_status_encode(b, &(struct proto_raft_status){.cluster_id = CLUSTER,
                                                            .member_id = MEMBER,
                                                            .leader_id = MEMBER,
                                                            .term = TERM,
                                                            .commit_index = commit_index,
                                                            .state = PROTO_RAFT_LEADER,
                                                            /* an answer that takes a slow
                                                             * machine seconds is no late one */
                                                            .election_timeout_ms = 50000,
                                                            .local_reads = local_reads});
    ipc_link_end(d->raftd);
}

static void answer_barrier(struct side *d, uint64_t id, int outcome, uint64_t index)
{
    struct buf *b = ipc_link_begin(d->raftd, PROTO_BARRIER_INDEX, id);

    proto_barrier_index_encode(
        b, &(struct proto_barrier_index){.outcome = (uint16_t)outcome, .index = index});
    ipc_link_end(d->raftd);
}

/* HashKV of all, by the daemon. */
static void hash_kv(struct side *d, struct buf *ret)
{
    uint64_t id = d->next_id++;

    read_start(d, id, PROTO_READ_HASH_KV, false, BYTES_EMPTY);
    expect_outcome(d, id, OUT_OK);
    buf_append_bytes(ret, buf_bytes(&answer_of(d, id)->message));
}

/* ---- applying ---- */

Test(stored, a_put_is_answered_to_the_gatewayd_that_waits)
{
    uint64_t id = put(&one, "k", "v");

    expect_outcome(&one, id, OUT_OK);
    cr_assert_gt(answer_of(&one, id)->message.len, 0);
    apply_all(&one);
    expect_value(&one, get(&one, "k", false), "v");
    expect_value(&one, get(&one, "absent", false), NULL);
}

Test(stored, answers_go_nowhere_else)
{
    static const struct {
        uint64_t member, generation;
    } rows[] = {
        {MEMBER + 1, GENERATION}, /* another member's client */
        {MEMBER, GENERATION + 1}, /* a gatewayd that is gone */
        {MEMBER, 0},              /* nobody waits */
    };
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    put_request(&b, "k", BYTES_LIT("v"));
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        commit(&one, PROTO_KIND_PUT, rows[i].member, rows[i].generation, buf_bytes(&b));
    apply_all(&one);
    settle();
    cr_assert_eq(one.answer_count, 0);
    expect_value(&one, get(&one, "k", false), "v");
}

Test(stored, a_refused_request_says_why)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    put_request(&b, "", BYTES_LIT("v"));
    expect_outcome(&one, commit(&one, PROTO_KIND_PUT, MEMBER, GENERATION, buf_bytes(&b)),
                   OUT_EMPTY_KEY);
    expect_outcome(&one,
                   commit(&one, PROTO_KIND_PUT, MEMBER, GENERATION, BYTES_LIT("\x0a\xff\xff\xff")),
                   OUT_MALFORMED);
    apply_all(&one); /* both count as executed, on every member */
    cr_assert_eq(one.applied.applied_index, 2);
}

Test(stored, entries_it_has_are_ignored_and_a_gap_is_refused)
{
    apply_all(&one);
    put(&one, "a", "1");
    put(&one, "b", "1");
    apply_all(&one);
    one.next_index = 1; /* again */
    put(&one, "a", "2");
    one.next_index = 5; /* 3 and 4 are missing */
    put(&one, "b", "2");
    settle();
    cr_assert_eq(one.applied.applied_index, 2);
    expect_value(&one, get(&one, "a", false), "1");
    expect_value(&one, get(&one, "b", false), "1");
    cr_assert_null(one.fatal);
    /* the next link starts over, from what is applied */
    raftd_stop(&one);
    raftd_start(&one);
    until(one.raftd_up);
    cr_assert_eq(one.hello.applied_index, 2);
    put(&one, "b", "3");
    apply_all(&one);
    expect_value(&one, get(&one, "b", false), "3");
}

Test(stored, garbage_from_the_links_is_dropped)
{
    ipc_link_send(one.raftd, PROTO_COMMITTED, 0, BYTES_LIT("\x01\x02\x03"));
    ipc_link_send(one.raftd, PROTO_ROLE, 0, BYTES_LIT("\x01"));
    ipc_link_send(one.raftd, PROTO_BARRIER_INDEX, 0, BYTES_LIT("\x01"));
    ipc_link_send(one.raftd, PROTO_BARRIER_INDEX, 99, BYTES_LIT("\0\0\0\0\0\0\0\0\0\0"));
    ipc_link_send(one.raftd, PROTO_SNAP_RECEIVE, 0, BYTES_LIT("\x01"));
    ipc_link_send(one.raftd, PROTO_SNAP_CHUNK, 0, BYTES_LIT("\x01"));
    ipc_link_send(one.raftd, PROTO_SNAP_ACTIVATE, 5, BYTES_EMPTY);
    ipc_link_send(one.raftd, 999, 0, BYTES_LIT("\x01"));
    ipc_link_send(one.gateway, PROTO_READ, 1, BYTES_LIT("\x01"));
    ipc_link_send(one.gateway, PROTO_CANCEL, 12345, BYTES_EMPTY);
    ipc_link_send(one.gateway, PROTO_READ_ACK, 1, BYTES_LIT("x"));
    ipc_link_send(one.gateway, 999, 1, BYTES_LIT("x"));
    settle();
    expect_outcome(&one, 1, OUT_MALFORMED);
    cr_assert_eq(one.done, OUT_INTERNAL);
    cr_assert_null(one.fatal);
    expect_value(&one, get(&one, "k", false), NULL);
}

/* ---- reads ---- */

Test(stored, linearizable_reads_of_a_turn_share_a_barrier_and_wait_for_it)
{
    uint64_t a, b, c;

    put(&one, "k", "old");
    apply_all(&one);
    a = get(&one, "k", true);
    b = get(&one, "k", true);
    c = get(&one, "k", true);
    until(one.barrier_count == 1);
    settle();
    cr_assert_eq(one.barrier_count, 1);
    cr_assert_eq(one.answer_count, 1); /* the put's */
    answer_barrier(&one, one.barrier_id, OUT_OK, 2);
    settle();
    cr_assert_eq(one.answer_count, 1); /* 2 is not applied yet */
    put(&one, "k", "new");
    expect_value(&one, a, "new");
    expect_value(&one, b, "new");
    expect_value(&one, c, "new");
}

Test(stored, a_read_after_the_barrier_was_asked_needs_another)
{
    uint64_t a = get(&one, "k", true), b, first;

    until(one.barrier_count == 1);
    first = one.barrier_id;
    b = get(&one, "k", true);
    until(one.barrier_count == 2);
    answer_barrier(&one, first, OUT_OK, 0);
    expect_value(&one, a, NULL);
    settle();
    cr_assert_null(answer_of(&one, b));
    answer_barrier(&one, one.barrier_id, OUT_OK, 0);
    expect_value(&one, b, NULL);
}

Test(stored, a_barrier_that_fails_fails_its_reads)
{
    static const int outcomes[] = {OUT_LEADER_CHANGED, OUT_TIMEOUT};

    for (size_t i = 0; i < ARRAY_LEN(outcomes); i++) {
        uint64_t id = get(&one, "k", true);

        until(one.barrier_count == i + 1);
        answer_barrier(&one, one.barrier_id, outcomes[i], 0);
        expect_outcome(&one, id, outcomes[i]);
    }
}

Test(stored, without_a_leader_reads_wait_for_one)
{
    uint64_t id = get(&one, "k", true);

    until(one.barrier_count == 1);
    answer_barrier(&one, one.barrier_id, OUT_NO_LEADER, 0);
    until(one.barrier_count == 2);
    cr_assert_null(answer_of(&one, id));
    answer_barrier(&one, one.barrier_id, OUT_OK, 0);
    expect_value(&one, id, NULL);
}

Test(stored, local_reads_need_the_grant_and_the_commit_index_it_came_with)
{
    uint64_t id;

    put(&one, "k", "v");
    apply_all(&one);
    send_role(&one, 2, true); /* 2 was acknowledged to someone; not applied here yet */
    until(one.role_ack_count == 1);
    id = get(&one, "k", true);
    until(one.barrier_count == 1);
    answer_barrier(&one, one.barrier_id, OUT_OK, 2);
    put(&one, "k", "w");
    expect_value(&one, id, "w");
    expect_value(&one, get(&one, "k", true), "w"); /* now without */
    cr_assert_eq(one.barrier_count, 1);
    send_role(&one, 2, false); /* taken back */
    until(one.role_ack_count == 2);
    id = get(&one, "k", true);
    until(one.barrier_count == 2);
    answer_barrier(&one, one.barrier_id, OUT_OK, 2);
    expect_value(&one, id, "w");
}

Test(stored, a_lost_raftd_ends_the_grant_and_barriers_are_asked_again)
{
    uint64_t a, b;
    uint64_t asked;

    send_role(&one, 0, true);
    until(one.role_ack_count == 1);
    raftd_stop(&one);
    until(!one.s.raftd_up);
    a = get(&one, "k", true);
    settle();
    cr_assert_null(answer_of(&one, a));
    expect_value(&one, get(&one, "k", false), NULL); /* serializable ones go on */
    raftd_start(&one);
    until(one.barrier_count == 1);
    asked = one.barrier_id;
    raftd_stop(&one);
    until(!one.s.raftd_up);
    b = get(&one, "k", true);
    raftd_start(&one);
    until(one.barrier_count == 2);
    cr_assert_neq(one.barrier_id, asked);
    answer_barrier(&one, asked, OUT_OK, 0); /* an answer to a lost question is none */
    settle();
    cr_assert_null(answer_of(&one, a));
    answer_barrier(&one, one.barrier_id, OUT_OK, 0);
    expect_value(&one, a, NULL);
    expect_value(&one, b, NULL);
}

Test(stored, a_cancelled_read_is_not_answered)
{
    uint64_t a = get(&one, "k", true), b = get(&one, "k", true);

    until(one.barrier_count == 1);
    ipc_link_send(one.gateway, PROTO_CANCEL, a, BYTES_EMPTY);
    settle();
    answer_barrier(&one, one.barrier_id, OUT_OK, 0);
    expect_value(&one, b, NULL);
    cr_assert_null(answer_of(&one, a));
}

Test(stored, a_gatewayd_that_leaves_takes_its_reads_along)
{
    get(&one, "k", true);
    until(one.barrier_count == 1);
    ipc_link_stop(TAKE(one.gateway), 0);
    one.gateway_up = false;
    until(one.s.gateways[0].generation == 0);
    cr_assert_eq(one.s.gateways[0].reads.count, 0);
    answer_barrier(&one, one.barrier_id, OUT_OK, 0);
    settle();
    one.gateway = link_start(&one, "stored.gw0", false, &gateway_ops);
    until(one.gateway_up);
    expect_value(&one, get(&one, "k", false), NULL);
    cr_assert_eq(one.answer_count, 1);
}

Test(stored, a_large_answer_comes_in_parts_and_waits_for_acks)
{
    uint64_t id, small, count;
    struct answer *a;

    put_many(&one, 3000, 1000); /* 3 MB: three windows */
    id = get_all(&one);
    until(answer_of(&one, id) != NULL &&
          answer_of(&one, id)->message.len + STORED_PART_BYTES > PROTO_RESULT_WINDOW_BYTES);
    settle();
    a = answer_of(&one, id);
    cr_assert_leq(a->message.len, PROTO_RESULT_WINDOW_BYTES);
    cr_assert_gt(a->total_bytes, 3000 * 1000);
    cr_assert_gt(a->parts, 10);
    /* neither applies nor other reads wait for it */
    put(&one, "many/00000000", "changed");
    apply_all(&one);
    small = get(&one, "many/00000000", false);
    expect_value(&one, small, "changed");
    while (!answered(&one, id)) {
        struct buf *b = ipc_link_begin(one.gateway, PROTO_READ_ACK, id);

        proto_u64_encode(b, &(struct proto_u64){answer_of(&one, id)->message.len});
        ipc_link_end(one.gateway);
        loop_run_once(loop, 1000);
    }
    cr_assert_eq(first_value(&one, id, &count).len, 1000); /* as of when it was asked */
    cr_assert_eq(count, 3000);
}

/* ---- etcd's database file ---- */

static uint64_t ask_snapshot(void)
{
    uint64_t id = one.next_id++;

    read_start(&one, id, PROTO_READ_SNAPSHOT, false, BYTES_EMPTY);
    return id;
}

static void ack(uint64_t id)
{
    struct buf *b = ipc_link_begin(one.gateway, PROTO_READ_ACK, id);

    proto_u64_encode(b, &(struct proto_u64){answer_of(&one, id)->message.len});
    ipc_link_end(one.gateway);
}

static int64_t revision_in(uint64_t id)
{
    CLEANUP(freep) char *error = NULL;
    struct snapshot_file f;
    struct snapshot_status status;

    cr_assert_eq(answer_of(&one, id)->outcome, OUT_OK);
    cr_assert_eq(snapshot_file_of(buf_bytes(&answer_of(&one, id)->message), &f, &error), 0, "%s",
                 error);
    cr_assert_eq(snapshot_file_verify_hash(&f, &error), 0, "%s", error);
    cr_assert_eq(snapshot_file_status(&f, &status, &error), 0, "%s", error);
    cr_assert_eq(status.revision_count, (uint64_t)status.revision - 1, "one version a revision");
    return status.revision;
}

Test(stored, an_export_is_of_when_it_was_asked_and_waits_for_acks)
{
    uint64_t id, other;

    put_many(&one, 4000, 1000); /* 4 MB: four windows */
    id = ask_snapshot();
    until(answer_of(&one, id) != NULL &&
          answer_of(&one, id)->message.len + STORED_PART_BYTES > PROTO_RESULT_WINDOW_BYTES);
    settle();
    cr_assert_leq(answer_of(&one, id)->message.len, PROTO_RESULT_WINDOW_BYTES);
    put_many(&one, 100, 1000);
    other = ask_snapshot();
    while (!answered(&one, id) || !answered(&one, other)) {
        if (!answered(&one, id))
            ack(id);
        if (answer_of(&one, other) != NULL && !answered(&one, other))
            ack(other);
        loop_run_once(loop, 1000);
    }
    cr_assert_eq(revision_in(id), 4001);
    cr_assert_eq(revision_in(other), 4101);
    cr_assert_eq(one.s.export_count, 0);
}

Test(stored, an_export_ends_with_whoever_asked_for_it)
{
    uint64_t first, second;

    put_many(&one, 2000, 1000);
    first = ask_snapshot();
    second = ask_snapshot();
    ipc_link_send(one.gateway, PROTO_CANCEL, first, BYTES_EMPTY);
    until(one.s.export_count == 1);
    until(answer_of(&one, second) != NULL);
    ipc_link_stop(TAKE(one.gateway), 0);
    one.gateway_up = false;
    until(one.s.export_count == 0);
}

Test(stored, a_stop_in_the_middle_of_an_export)
{
    uint64_t id;

    put_many(&one, 2000, 1000);
    id = ask_snapshot();
    until(answer_of(&one, id) != NULL);
    ask_snapshot(); /* this one is being measured */
    until(one.s.export_count == 2);
    stored_down(&one);
}

Test(stored, too_many_exports_are_refused)
{
    uint64_t last = 0;

    put_many(&one, 2000, 1000); /* more than a window, so none ends by itself */
    for (int i = 0; i < 17; i++)
        last = ask_snapshot();
    expect_outcome(&one, last, OUT_TOO_MANY_REQUESTS);
}

Test(stored, status_says_what_there_is)
{
    struct proto_store_status status;
    uint64_t id;

    put_many(&one, 10, 10);
    id = one.next_id++;
    read_start(&one, id, PROTO_READ_STATUS, false, BYTES_EMPTY);
    expect_outcome(&one, id, OUT_OK);
    cr_assert_eq(proto_store_status_decode(buf_bytes(&answer_of(&one, id)->message), &status), 0);
    cr_assert_eq(status.revision, 11);
    cr_assert_eq(status.applied_index, 10);
    cr_assert_eq(status.key_count, 10);
    cr_assert_eq(status.put_total, 10);
    cr_assert_eq(status.quota_bytes, 2147483648U);
    cr_assert_eq(status.chain_hash, one.applied.chain_hash);
}

/* ---- life ---- */

Test(stored, ready_means_caught_up_with_the_first_role)
{
    settle();
    cr_assert(!one.ready);
    send_role(&one, 2, false);
    put(&one, "a", "1");
    apply_all(&one);
    settle();
    cr_assert(!one.ready);
    put(&one, "a", "2");
    until(one.ready);
}

Test(stored, members_are_told_on_up_and_on_change)
{
    CLEANUP(buf_fini) struct buf change = BUF_INIT;
    CLEANUP(buf_fini) struct buf payload = BUF_INIT;
    CLEANUP(buf_fini) struct buf entry = BUF_INIT;
    struct wire_reader r;
    struct proto_member member;

    until(one.members_count == 1);
    cr_assert_eq(one.members.len, 0);
    proto_conf_change_encode(
        &change, &(struct proto_conf_change){
                     .op = PROTO_CONF_ADD_VOTER,
                     .member = {.id = MEMBER, .peer_urls = BYTES_LIT("http://localhost:2380")}});
    proto_payload_encode(&payload, &(struct proto_payload){.kind = PROTO_KIND_CONF_CHANGE,
                                                           .body = buf_bytes(&change)});
    proto_entry_encode(&entry, &(struct proto_entry){.index = one.next_index++,
                                                     .term = 1,
                                                     .type = PROTO_ENTRY_CONF,
                                                     .data = buf_bytes(&payload)});
    cr_assert(ipc_link_send(one.raftd, PROTO_COMMITTED, 0, buf_bytes(&entry)));
    until(one.members_count == 2);
    r = wire_reader(buf_bytes(&one.members));
    cr_assert_eq(proto_member_read(&r, &member), 0);
    cr_assert_eq(member.id, MEMBER);
    cr_assert_eq(r.pos, r.end);
}

Test(stored, a_stop_and_start_resumes_from_the_applied_index)
{
    uint64_t chain_hash;

    put_many(&one, 500, 100);
    chain_hash = one.applied.chain_hash;
    stored_down(&one);
    {
        CLEANUP(freep) char *path = xasprintf("%s/member/db/checkpoint", one.conf.data_dir);

        cr_assert_eq(access(path, F_OK), 0);
    }
    stored_up(&one);
    until(one.raftd_up && one.gateway_up && one.hello_count == 2);
    cr_assert_eq(one.hello.applied_index, 500);
    cr_assert_eq(one.hello.durable_index, 500);
    cr_assert_eq(one.hello.chain_hash, chain_hash);
    cr_assert_eq(one.hello.cluster_id, CLUSTER);
    cr_assert_eq(one.hello.member_id, MEMBER);
    put(&one, "k", "v");
    apply_all(&one);
    expect_value(
        &one, get(&one, "many/00000499", false),
        "vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv"
        "vvvvvvvvvvvv");
    expect_value(&one, get(&one, "k", false), "v");
}

static void copy_file(const char *from, const char *to)
{
    CLEANUP(closep) int in = open(from, O_RDONLY | O_CLOEXEC);
    CLEANUP(closep) int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    static char block[1 << 16];
    ssize_t n;

    cr_assert(in >= 0 && out >= 0, "%s", from);
    while ((n = read(in, block, sizeof(block))) > 0)
        cr_assert_eq(write(out, block, (size_t)n), n);
    cr_assert_eq(n, 0);
}

/* What a kill at this moment would leave of `from`: its files as they are (nng, which Criterion
 * uses too, does not survive a fork, so no process is killed here). */
static void copy_as_if_killed(struct side *from, struct side *to)
{
    CLEANUP(freep) char *member = xasprintf("%s/member", to->conf.data_dir);
    CLEANUP(freep) char *db = xasprintf("%s/db", member);
    CLEANUP(freep) char *id_from = xasprintf("%s/db.id", from->s.dir.path);
    CLEANUP(freep) char *id_to = xasprintf("%s/db.id", member);
    DIR *dir = opendir(from->s.dir.db);
    const struct dirent *entry;

    mkdir(to->conf.data_dir, 0700);
    mkdir(member, 0700);
    mkdir(db, 0700);
    copy_file(id_from, id_to);
    while ((entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] == '.')
            continue;
        CLEANUP(freep) char *a = xasprintf("%s/%s", from->s.dir.db, entry->d_name);
        CLEANUP(freep) char *b = xasprintf("%s/%s", db, entry->d_name);

        copy_file(a, b);
    }
    closedir(dir);
}

Test(stored, a_kill_loses_nothing_that_was_written)
{
    struct engine_leveldb_stats stats;

    side_init(&two);
    put_many(&one, 300, 100);
    do {
        loop_run_once(loop, 10);
        engine_leveldb_get_stats(one.s.engine, &stats);
    } while (stats.queued_bytes > 0);
    copy_as_if_killed(&one, &two);
    side_up(&two);
    cr_assert_eq(two.hello.applied_index, 300);
    cr_assert_eq(two.hello.chain_hash, one.applied.chain_hash);
    put(&two, "k", "v");
    apply_all(&two);
    expect_value(&two, get(&two, "k", false), "v");
}

Test(stored, a_kill_before_the_write_is_made_up_by_raftd)
{
    uint64_t id, count;

    side_init(&two);
    put_many(&one, 300, 100);
    copy_as_if_killed(&one, &two);
    side_up(&two);
    cr_assert_leq(two.hello.applied_index, 300);
    for (uint64_t i = two.hello.applied_index; i < 300; i++) {
        CLEANUP(buf_fini) struct buf b = BUF_INIT;
        char key[32], value[100];

        memset(value, 'v', sizeof(value));
        snprintf(key, sizeof(key), "many/%08u", (unsigned int)i);
        put_request(&b, key, bytes_of(value, sizeof(value)));
        commit(&two, PROTO_KIND_PUT, MEMBER + 1, 1, buf_bytes(&b));
    }
    apply_all(&two);
    until(two.applied.applied_index == 300 || two.hello.applied_index == 300);
    id = get_all(&two);
    first_value(&two, id, &count);
    cr_assert_eq(count, 300);
    cr_assert_eq(two.s.cluster_id, CLUSTER);
}

Test(stored, a_raftd_of_another_member_is_refused)
{
    static const struct {
        uint64_t cluster, member;
    } rows[] = {{CLUSTER, MEMBER + 1}, {CLUSTER + 1, MEMBER}, {0, 0}};

    put(&one, "k", "v");
    apply_all(&one);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        raftd_stop(&one);
        until(!one.s.raftd_up);
        one.cluster_id = rows[i].cluster;
        one.member_id = rows[i].member;
        raftd_start(&one);
        for (int turn = 0; turn < 20; turn++)
            loop_run_once(loop, 10);
        cr_assert(!one.s.raftd_up);
    }
    raftd_stop(&one);
    one.cluster_id = CLUSTER;
    one.member_id = MEMBER;
    raftd_start(&one);
    until(one.s.raftd_up);
    cr_assert_null(one.fatal);
}

Test(stored, a_second_process_waits_for_the_lock)
{
    struct stored_dir other;

    cr_assert_eq(stored_dir_open(&other, one.conf.data_dir), 0);
    cr_assert_eq(stored_dir_lock(&other), -EWOULDBLOCK);
    stored_down(&one);
    cr_assert_eq(stored_dir_lock(&other), 0);
    stored_dir_close(&other);
}

/* ---- background work ---- */

static uint64_t compact(struct side *d, int64_t revision, bool physical)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    pb_put_i64(&b, 1, revision);
    pb_put_bool(&b, 2, physical);
    return commit(d, PROTO_KIND_COMPACT, MEMBER, GENERATION, buf_bytes(&b));
}

Test(stored, a_physical_compaction_is_answered_when_it_is_done)
{
    uint64_t id;

    one.conf.compaction_batch_limit = 10;
    put_many(&one, 200, 10);
    put_many(&one, 200, 10);
    id = compact(&one, 400, true);
    apply_all(&one);
    cr_assert_null(answer_of(&one, id));
    expect_outcome(&one, id, OUT_OK);
    cr_assert(!kv_compact_unfinished(one.s.kv));
    expect_outcome(&one, compact(&one, 400, false), OUT_COMPACTED);
    expect_outcome(&one, compact(&one, 4000, true), OUT_FUTURE_REVISION);
}

static uint64_t admit(struct side *d, uint64_t cost)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;
    uint64_t id = d->next_id++;

    proto_u64_encode(&b, &(struct proto_u64){.value = cost});
    read_start(d, id, PROTO_READ_ADMIT, false, buf_bytes(&b));
    return id;
}

static uint64_t set_alarm(struct side *d, uint64_t action, uint64_t type)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    pb_put_u64(&b, 1, action);
    pb_put_u64(&b, 2, MEMBER);
    pb_put_u64(&b, 3, type);
    return commit(d, PROTO_KIND_ALARM, MEMBER, GENERATION, buf_bytes(&b));
}

Test(stored, the_quota_raises_the_alarm_and_refuses_what_grows)
{
    CLEANUP(buf_fini) struct buf gone = BUF_INIT;
    struct proto_propose_own own;
    uint64_t refused;

    stored_down(&one);
    one.conf.quota_backend_bytes = 100000;
    one.raftd_up = one.gateway_up = false;
    stored_up(&one);
    until(one.raftd_up && one.gateway_up);
    until(one.space.quota_bytes == 100000);
    put_many(&one, 9, 10000);
    until(one.space.used_bytes > 90000);
    expect_outcome(&one, admit(&one, 100), OUT_OK);

    buf_clear(&one.own);
    refused = admit(&one, 20000);
    until(one.own.len != 0);
    cr_assert_null(answer_of(&one, refused)); /* not before the alarm is active */
    cr_assert_eq(proto_propose_own_decode(buf_bytes(&one.own), &own), 0);
    cr_assert_eq(own.kind, PROTO_KIND_ALARM);
    commit(&one, own.kind, MEMBER, 0, own.body);
    expect_outcome(&one, refused, OUT_NO_SPACE);
    expect_outcome(&one, admit(&one, 20000), OUT_NO_SPACE); /* at once */
    expect_outcome(&one, put(&one, "a", "b"), OUT_NO_SPACE);
    pb_put_bytes(&gone, 1, BYTES_LIT("many/00000000"));
    expect_outcome(&one, commit(&one, PROTO_KIND_DELETE_RANGE, MEMBER, GENERATION, buf_bytes(&gone)),
                   OUT_OK);
    /* its history still counts; without it there is room */
    expect_outcome(&one, compact(&one, 11, true), OUT_OK);
    until(one.space.used_bytes < 90000);
    expect_outcome(&one, set_alarm(&one, 2, STORE_ALARM_NOSPACE), OUT_OK);
    expect_outcome(&one, put(&one, "a", "b"), OUT_OK);
    expect_outcome(&one, admit(&one, 100), OUT_OK);
}

Test(stored, what_overran_the_quota_raises_the_alarm_too)
{
    stored_down(&one);
    one.conf.quota_backend_bytes = 50000;
    one.raftd_up = one.gateway_up = false;
    stored_up(&one);
    until(one.raftd_up && one.gateway_up);
    put_many(&one, 6, 10000); /* by way of another member */
    until(one.own.len != 0);
}

Test(stored, no_quota_admits_everything)
{
    stored_down(&one);
    one.conf.quota_backend_bytes = -1;
    one.raftd_up = one.gateway_up = false;
    stored_up(&one);
    until(one.raftd_up && one.gateway_up);
    expect_outcome(&one, admit(&one, UINT64_MAX), OUT_OK);
}

Test(stored, a_defragmentation_waits_for_the_removal_of_history)
{
    uint64_t id, first;

    one.conf.compaction_batch_limit = 10;
    put_many(&one, 200, 1000);
    put_many(&one, 200, 1000);
    first = compact(&one, 400, false);
    apply_all(&one);
    id = one.next_id++;
    read_start(&one, id, PROTO_READ_DEFRAGMENT, false, BYTES_EMPTY);
    expect_outcome(&one, put(&one, "meanwhile", "1"), OUT_OK);
    expect_outcome(&one, first, OUT_OK);
    expect_outcome(&one, id, OUT_OK);
    cr_assert(!kv_compact_unfinished(one.s.kv));
}

Test(stored, a_stop_during_a_defragmentation)
{
    put_many(&one, 200, 1000);
    read_start(&one, one.next_id++, PROTO_READ_DEFRAGMENT, false, BYTES_EMPTY);
    until(one.s.merging || one.answer_count != 0);
    stored_down(&one);
}

Test(stored, a_checkpoint_is_made_while_it_runs)
{
    one.conf.checkpoint_entries = 100;
    put_many(&one, 1000, 100);
    until(one.s.checkpoint_index == 1000);
    until(one.s.checkpoint == NULL);
    put_many(&one, 10, 100);
    stored_down(&one);
    stored_up(&one);
    until(one.raftd_up && one.hello_count == 2);
    cr_assert_eq(one.hello.applied_index, 1010);
}

Test(stored, durable_follows)
{
    put_many(&one, 100, 100);
    cr_assert_leq(one.applied.durable_index, 100);
    engine_leveldb_sync(one.s.engine);
    while (one.applied.durable_index < 100) {
        loop_run_once(loop, 100);
        engine_leveldb_sync(one.s.engine);
    }
    cr_assert_eq(one.applied.durable_index, 100);
}

/* ---- snapshots ---- */

static void snapshot_of_one(void)
{
    ipc_link_send(one.raftd, PROTO_SNAP_SEND, 77, BYTES_EMPTY);
    until(one.snap_last);
    cr_assert_gt(one.snap_meta.len, 0);
}

static void send_snapshot_to(struct side *d)
{
    ipc_link_send(d->raftd, PROTO_SNAP_RECEIVE, 78, buf_bytes(&one.snap_meta));
    for (size_t i = 0; i < one.snap_chunk_count; i++)
        ipc_link_send(d->raftd, PROTO_SNAP_CHUNK, 78, buf_bytes(&one.snap_chunks[i]));
}

static void fill_one(void)
{
    put_many(&one, 1500, 1000);
    put_many(&one, 500, 10);
    expect_outcome(&one, compact(&one, 100, false), OUT_OK);
    until(!kv_compact_unfinished(one.s.kv));
    apply_all(&one);
}

Test(stored, a_snapshot_makes_an_equal_member)
{
    CLEANUP(buf_fini) struct buf a = BUF_INIT;
    CLEANUP(buf_fini) struct buf b = BUF_INIT;
    struct proto_snap_meta meta;

    side_init(&two);
    side_up(&two);
    put(&two, "other", "history");
    apply_all(&two);
    fill_one();
    snapshot_of_one();
    cr_assert_eq(proto_snap_meta_decode(buf_bytes(&one.snap_meta), &meta), 0);
    cr_assert_eq(meta.index, one.applied.applied_index);
    cr_assert_eq(meta.chain_hash, one.applied.chain_hash);
    send_snapshot_to(&two);
    until(two.staged != -1);
    cr_assert_eq(two.staged, OUT_OK);
    expect_value(&two, get(&two, "other", false), "history"); /* not active yet */
    ipc_link_send(two.raftd, PROTO_SNAP_ACTIVATE, 78, BYTES_EMPTY);
    until(two.done != -1);
    cr_assert_eq(two.done, OUT_OK);
    until(two.applied.applied_index == meta.index);
    cr_assert_eq(two.applied.chain_hash, meta.chain_hash);
    hash_kv(&one, &a);
    hash_kv(&two, &b);
    cr_assert(bytes_eq(buf_bytes(&a), buf_bytes(&b)));
    expect_value(&two, get(&two, "other", false), NULL);
    /* and both go on the same way */
    two.next_index = one.next_index;
    two.next_id = one.next_id; /* the request id is part of the entry */
    put(&one, "k", "v");
    put(&two, "k", "v");
    apply_all(&one);
    apply_all(&two);
    cr_assert_eq(one.applied.chain_hash, two.applied.chain_hash);
    /* also after a restart */
    stored_down(&two);
    stored_up(&two);
    until(two.hello_count == 2);
    cr_assert_eq(two.hello.applied_index, one.applied.applied_index);
    cr_assert_eq(two.hello.chain_hash, one.applied.chain_hash);
}

Test(stored, sending_goes_on_only_as_it_is_acknowledged)
{
    uint64_t sent = 0;

    put_many(&one, 6000, 1000);
    one.snap_hold = true;
    ipc_link_send(one.raftd, PROTO_SNAP_SEND, 77, BYTES_EMPTY);
    until(one.snap_chunk_count > 0);
    settle();
    settle();
    cr_assert(!one.snap_last);
    for (size_t i = 0; i < one.snap_chunk_count; i++)
        sent += one.snap_chunks[i].len;
    cr_assert_leq(sent, STORED_SNAP_WINDOW_BYTES + (64 << 10));
    /* applying goes on meanwhile, and a cancel ends it */
    put(&one, "k", "v");
    apply_all(&one);
    ipc_link_send(one.raftd, PROTO_SNAP_CANCEL, 77, BYTES_EMPTY);
    settle();
    cr_assert_null(one.s.snap_out);
}

Test(stored, a_damaged_snapshot_changes_nothing)
{
    side_init(&two);
    side_up(&two);
    put(&two, "other", "history");
    apply_all(&two);
    fill_one();
    snapshot_of_one();
    cr_assert_gt(one.snap_chunk_count, 3);
    one.snap_chunks[2].data[one.snap_chunks[2].len / 2] ^= 1;
    send_snapshot_to(&two);
    until(two.staged != -1);
    cr_assert_neq(two.staged, OUT_OK);
    two.done = -1;
    ipc_link_send(two.raftd, PROTO_SNAP_ACTIVATE, 78, BYTES_EMPTY);
    until(two.done != -1);
    cr_assert_neq(two.done, OUT_OK);
    expect_value(&two, get(&two, "other", false), "history");
    cr_assert_neq(access(two.s.dir.recv, F_OK), 0);
    cr_assert_null(two.fatal);
}

Test(stored, a_snapshot_that_cannot_be_written_ends_only_itself)
{
    side_init(&two);
    side_up(&two);
    put(&two, "other", "history");
    apply_all(&two);
    fill_one();
    snapshot_of_one();
    send_snapshot_to(&two);
    until(two.s.snap_in != NULL);
    nftw(two.s.dir.recv, remove_one, 16, FTW_DEPTH | FTW_PHYS); /* its sync fails */
    until(two.staged != -1);
    cr_assert_neq(two.staged, OUT_OK);
    expect_value(&two, get(&two, "other", false), "history");
    put(&two, "other", "goes on");
    apply_all(&two);
    cr_assert_null(two.fatal);
}

Test(stored, a_missing_chunk_is_refused)
{
    side_init(&two);
    side_up(&two);
    fill_one();
    snapshot_of_one();
    ipc_link_send(two.raftd, PROTO_SNAP_RECEIVE, 78, buf_bytes(&one.snap_meta));
    ipc_link_send(two.raftd, PROTO_SNAP_CHUNK, 78, buf_bytes(&one.snap_chunks[1]));
    until(two.staged != -1);
    cr_assert_neq(two.staged, OUT_OK);
}

Test(stored, a_crash_in_the_middle_of_an_activation_leaves_a_whole_state)
{
    uint64_t index;

    side_init(&two);
    side_up(&two);
    fill_one();
    index = one.applied.applied_index;
    snapshot_of_one();
    for (int steps = 0; steps <= 3; steps++) {
        struct stored_dir dir;

        two.staged = -1;
        if (steps > 0) { /* a state of its own again */
            CLEANUP(freep) char *member = xasprintf("%s/member", two.conf.data_dir);

            stored_down(&two);
            nftw(member, remove_one, 16, FTW_DEPTH | FTW_PHYS);
            two.raftd_up = false;
            stored_up(&two);
            until(two.raftd_up && two.gateway_up);
        }
        put(&two, "other", "history");
        apply_all(&two);
        send_snapshot_to(&two);
        until(two.staged != -1);
        cr_assert_eq(two.staged, OUT_OK);
        /* the process ends without taking the staged state away; then some of the renames happen */
        free(TAKE(two.s.snap_in));
        stored_down(&two);
        cr_assert_eq(stored_dir_open(&dir, two.conf.data_dir), 0);
        cr_assert_eq(stored_dir_lock(&dir), 0);
        cr_assert_eq(stored_dir_activate_steps(&dir, steps), 0);
        stored_dir_close(&dir);
        two.raftd_up = false;
        stored_up(&two);
        until(two.raftd_up && two.gateway_up);
        cr_assert_eq(two.hello.applied_index, steps == 0 ? 1 : index);
        expect_value(&two, get(&two, "other", false), steps == 0 ? "history" : NULL);
        forget_answers(&two);
        two.applied.applied_index = 0;
    }
}

/* ---- leases ---- */

enum { LEASE = 77, LEASE_TTL = 60 };

static bool has_proposed(struct side *d, enum proto_kind kind, struct proto_propose_own *ret)
{
    return d->own.len > 0 && proto_propose_own_decode(buf_bytes(&d->own), ret) == 0 &&
           ret->kind == kind;
}

static void grant_lease(struct side *d)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    proto_lease_grant_encode(
        &b, &(struct proto_lease_grant){.id = LEASE, .ttl = LEASE_TTL, .ttl_min = 2});
    expect_outcome(d, commit(d, PROTO_KIND_LEASE_GRANT, MEMBER, GENERATION, buf_bytes(&b)), OUT_OK);
}

static uint64_t renew(struct side *d)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;
    uint64_t id = d->next_id++;

    wire_put_i64(&b, LEASE);
    read_start(d, id, PROTO_READ_LEASE_KEEP_ALIVE, false, buf_bytes(&b));
    return id;
}

/* One answer {length, LeaseKeepAliveResponse}: TTL is field 3. */
static int64_t renewed_ttl(struct side *d, uint64_t id)
{
    struct wire_reader answer;
    struct pb_reader r;
    struct pb_field f;
    int64_t ttl = 0;

    expect_outcome(d, id, OUT_OK);
    answer = wire_reader(buf_bytes(&answer_of(d, id)->message));
    r = pb_reader(wire_get_bytes(&answer));
    cr_assert_eq(wire_reader_done(&answer), 0);
    while (pb_next(&r, &f))
        if (f.number == 3)
            ttl = (int64_t)f.value;
    cr_assert(!r.bad);
    return ttl;
}

static void answer_lease_barrier(struct side *d, uint64_t term)
{
    struct buf *b = ipc_link_begin(d->raftd, PROTO_BARRIER_INDEX, d->barrier_id);

    proto_barrier_index_encode(
        b, &(struct proto_barrier_index){
               .outcome = OUT_OK, .index = d->next_index - 1, .term = term});
    ipc_link_end(d->raftd);
}

/* It leads, there is a lease, and its LEASE_KEEPER is committed. */
static void become_keeper(struct side *d)
{
    CLEANUP(buf_fini) struct buf body = BUF_INIT;
    struct proto_propose_own m;

    send_role(d, 0, false);
    grant_lease(d);
    until(has_proposed(d, PROTO_KIND_LEASE_KEEPER, &m));
    cr_assert_eq(m.term, TERM);
    buf_append_bytes(&body, m.body);
    commit(d, PROTO_KIND_LEASE_KEEPER, MEMBER, 0, buf_bytes(&body));
    apply_all(d);
}

Test(stored, a_renewal_is_answered_only_while_it_leads_for_sure)
{
    unsigned int asked;
    uint64_t id;

    become_keeper(&one);
    asked = one.barrier_count;
    id = renew(&one);
    until(one.barrier_count > asked);
    settle();
    cr_assert(!answered(&one, id), "before the barrier");
    asked = one.barrier_count;
    answer_lease_barrier(&one, 0); /* it does not lead any more, says raftd */
    until(one.barrier_count > asked);
    cr_assert(!answered(&one, id), "a barrier of no term of its own");
    asked = one.barrier_count;
    answer_lease_barrier(&one, TERM + 1);
    until(one.barrier_count > asked);
    cr_assert(!answered(&one, id), "a barrier of another term");
    answer_lease_barrier(&one, TERM);
    cr_assert_eq(renewed_ttl(&one, id), LEASE_TTL);
}

static void follow(struct side *d)
{
    struct buf *b = ipc_link_begin(d->raftd, PROTO_ROLE, 2);

    proto_raft_status_encode(b, &(struct proto_raft_status){.cluster_id = CLUSTER,
                                                            .member_id = MEMBER,
                                                            .leader_id = MEMBER + 1,
                                                            .term = TERM + 1});
    ipc_link_end(d->raftd);
}

static void answer_forward(struct side *d, int outcome, int64_t ttl)
{
    CLEANUP(buf_fini) struct buf body = BUF_INIT;
    struct buf *b = ipc_link_begin(d->raftd, PROTO_FORWARD_RESULT, d->forward_id);

    wire_put_u64(&body, d->next_index - 1);
    wire_put_i64(&body, ttl);
    wire_put_i64(&body, ttl);
    proto_forward_result_encode(
        b, &(struct proto_forward_result){
               .outcome = (uint16_t)outcome,
               .body = outcome == OUT_OK ? buf_bytes(&body) : BYTES_EMPTY});
    ipc_link_end(d->raftd);
}

Test(stored, a_renewal_goes_to_whoever_leads)
{
    uint64_t id;

    become_keeper(&one);
    id = renew(&one); /* its barrier is never answered: another member leads by now */
    until(one.barrier_count > 0);
    follow(&one);
    until(one.forward_count == 1);
    answer_forward(&one, OUT_NOT_LEADER, 0);
    until(one.forward_count == 2);
    cr_assert(!answered(&one, id));
    answer_forward(&one, OUT_OK, LEASE_TTL);
    cr_assert_eq(renewed_ttl(&one, id), LEASE_TTL);
    id = renew(&one);
    until(one.forward_count == 3);
    answer_forward(&one, OUT_OK, 0);
    cr_assert_eq(renewed_ttl(&one, id), 0, "there is no such lease");
}
