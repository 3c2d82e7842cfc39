#include "tests/unit/stored_side.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/pb.h"
#include "lib/wire/wire.h"

struct loop *loop;
struct side one, two;

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

void side_remove_tree(const char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

void side_settle(void)
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

struct answer *side_answer(struct side *d, uint64_t id)
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
    struct answer *a = side_answer(d, f->id);
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

const struct ipc_link_ops side_gateway_ops = {
    .fill_hello = gateway_fill_hello,
    .on_hello = gateway_on_hello,
    .on_up = gateway_on_up,
    .on_down = gateway_on_down,
    .on_frame = gateway_on_frame,
};

bool side_answered(struct side *d, uint64_t id)
{
    const struct answer *a = side_answer(d, id);

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

struct ipc_link *side_link_start(struct side *d, const char *name, bool listen,
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

void side_raftd_start(struct side *d)
{
    d->raftd = side_link_start(d, "raftd.stored", true, &raftd_ops);
}

void side_raftd_stop(struct side *d)
{
    ipc_link_stop(TAKE(d->raftd), 0);
    d->raftd_up = false;
}

void side_stored_up(struct side *d)
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

void side_stored_down(struct side *d)
{
    if (!d->running)
        return;
    stored_stop(&d->s);
    cr_assert(d->stopped);
    stored_close(&d->s);
    d->running = false;
}

void side_forget_answers(struct side *d)
{
    for (size_t i = 0; i < d->answer_count; i++)
        buf_fini(&d->answers[i].message);
    d->answer_count = 0;
}

void side_init(struct side *d)
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

void side_up(struct side *d)
{
    side_stored_up(d);
    side_raftd_start(d);
    d->gateway = side_link_start(d, "stored.gw0", false, &side_gateway_ops);
    until(d->raftd_up && d->gateway_up);
}

void side_fini(struct side *d)
{
    side_stored_down(d);
    ipc_link_stop(d->raftd, 0);
    ipc_link_stop(d->gateway, 0);
    side_forget_answers(d);
    for (size_t i = 0; i < d->snap_chunk_count; i++)
        buf_fini(&d->snap_chunks[i]);
    free(d->snap_chunks);
    buf_fini(&d->snap_meta);
    buf_fini(&d->members);
    buf_fini(&d->own);
    free(d->conf.data_dir);
    free(d->fatal);
    side_remove_tree(d->dir);
}

/* ---- requests ---- */

uint64_t side_commit(struct side *d, enum proto_kind kind, uint64_t origin, uint64_t generation,
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

void side_put_request(struct buf *b, const char *key, struct bytes value)
{
    pb_put_bytes(b, 1, bytes_str(key));
    pb_put_bytes(b, 2, value);
}

uint64_t side_put(struct side *d, const char *key, const char *value)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    side_put_request(&b, key, bytes_str(value));
    return side_commit(d, PROTO_KIND_PUT, MEMBER, GENERATION, buf_bytes(&b));
}

void side_apply_all(struct side *d)
{
    until(d->applied.applied_index >= d->next_index - 1);
}

void side_put_many(struct side *d, unsigned int count, size_t value_len)
{
    CLEANUP(freep) char *value = xcalloc(1, value_len + 1);
    char key[32];

    memset(value, 'v', value_len);
    for (unsigned int i = 0; i < count; i++) {
        CLEANUP(buf_fini) struct buf b = BUF_INIT;

        snprintf(key, sizeof(key), "many/%08u", i);
        side_put_request(&b, key, bytes_of(value, value_len));
        side_commit(d, PROTO_KIND_PUT, MEMBER + 1, 1, buf_bytes(&b));
        if (i % 64 == 63)
            side_apply_all(d);
    }
    side_apply_all(d);
}

void side_read(struct side *d, uint64_t id, enum proto_read_kind kind, bool linearizable,
               struct bytes body)
{
    struct buf *b = ipc_link_begin(d->gateway, PROTO_READ, id);

    cr_assert_not_null(b);
    proto_read_encode(
        b, &(struct proto_read){.kind = kind, .linearizable = linearizable, .body = body});
    ipc_link_end(d->gateway);
}

uint64_t side_get(struct side *d, const char *key, bool linearizable)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;
    uint64_t id = d->next_id++;

    pb_put_bytes(&b, 1, bytes_str(key));
    side_read(d, id, PROTO_READ_RANGE, linearizable, buf_bytes(&b));
    return id;
}

uint64_t side_get_all(struct side *d)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;
    uint64_t id = d->next_id++;

    pb_put_bytes(&b, 1, BYTES_LIT("\0"));
    pb_put_bytes(&b, 2, BYTES_LIT("\0"));
    side_read(d, id, PROTO_READ_RANGE, false, buf_bytes(&b));
    return id;
}

/* RangeResponse: header 1, kvs 2, count 4. KeyValue: value 5. */
struct bytes side_first_value(struct side *d, uint64_t id, uint64_t *ret_count)
{
    struct pb_reader r, kv;
    struct pb_field f, g;
    struct bytes value = BYTES_EMPTY;
    const struct answer *a;

    until(side_answered(d, id));
    a = side_answer(d, id);
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

void side_expect_value(struct side *d, uint64_t id, const char *value)
{
    uint64_t count;
    struct bytes got = side_first_value(d, id, &count);

    if (value == NULL) {
        cr_assert_eq(count, 0);
        return;
    }
    cr_assert_eq(count, 1);
    cr_assert(bytes_eq(got, bytes_str(value)), "%.*s", (int)got.len, (const char *)got.data);
}

void side_expect_outcome(struct side *d, uint64_t id, int outcome)
{
    until(side_answered(d, id));
    cr_assert_eq(side_answer(d, id)->outcome, outcome, "%s",
                 outcome_name(side_answer(d, id)->outcome));
}

void side_send_role(struct side *d, uint64_t commit_index, bool local_reads)
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

void side_answer_barrier(struct side *d, uint64_t id, int outcome, uint64_t index)
{
    struct buf *b = ipc_link_begin(d->raftd, PROTO_BARRIER_INDEX, id);

    proto_barrier_index_encode(
        b, &(struct proto_barrier_index){.outcome = (uint16_t)outcome, .index = index});
    ipc_link_end(d->raftd);
}

void side_hash_kv(struct side *d, struct buf *ret)
{
    uint64_t id = d->next_id++;

    side_read(d, id, PROTO_READ_HASH_KV, false, BYTES_EMPTY);
    side_expect_outcome(d, id, OUT_OK);
    buf_append_bytes(ret, buf_bytes(&side_answer(d, id)->message));
}

uint64_t side_compact(struct side *d, int64_t revision, bool physical)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    pb_put_i64(&b, 1, revision);
    pb_put_bool(&b, 2, physical);
    return side_commit(d, PROTO_KIND_COMPACT, MEMBER, GENERATION, buf_bytes(&b));
}

/* ---- a suite ---- */

void side_setup(void)
{
    loop = loop_new();
    side_init(&one);
    side_up(&one);
}

void side_teardown(void)
{
    side_fini(&one);
    if (two.dir[0] != '\0')
        side_fini(&two);
    loop_free(loop);
}
