/* Messages between members survive encode and decode; nothing cut, stretched or absurd decodes. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/util/macros.h"
#include "raftd/peer/peer_msg.h"

static const struct peer_header header = {.cluster_id = 1, .from = 2, .to = 3, .generation = 4};

#define ROUND_TRIP(name, ...)                                                                      \
    Test(peer_msg, name)                                                                           \
    {                                                                                              \
        struct peer_##name in = {__VA_ARGS__}, out;                                                \
        struct buf a = BUF_INIT, b = BUF_INIT;                                                     \
                                                                                                   \
        peer_##name##_encode(&a, &in);                                                             \
        cr_assert_eq(peer_##name##_decode(buf_bytes(&a), &out), 0);                                \
        peer_##name##_encode(&b, &out);                                                            \
        cr_assert(bytes_eq(buf_bytes(&a), buf_bytes(&b)));                                         \
        for (size_t cut = 0; cut < a.len; cut++)                                                   \
            cr_assert_neq(peer_##name##_decode(bytes_of(a.data, cut), &out), 0);                   \
        buf_append_u8(&a, 0);                                                                      \
        cr_assert_neq(peer_##name##_decode(buf_bytes(&a), &out), 0);                               \
        buf_fini(&a);                                                                              \
        buf_fini(&b);                                                                              \
    }

ROUND_TRIP(hello, .peer_urls = BYTES_LIT("http://a:1"))
ROUND_TRIP(propose_failed, .generation = 1, .request_id = 2, .outcome = 3)
ROUND_TRIP(members, .cluster_id = 1, .members = BYTES_LIT("m"))
ROUND_TRIP(snap_meta, .transfer_id = 1, .term = 2, .meta = BYTES_LIT("meta"))
ROUND_TRIP(snap_ack, .transfer_id = 1, .consumed = 2)
ROUND_TRIP(snap_end, .transfer_id = 1, .index = 2, .outcome = 3)
ROUND_TRIP(hash, .index = 1, .chain_hash = 2)

Test(peer_msg, header)
{
    struct buf b = BUF_INIT;
    struct peer_header out;
    struct wire_reader r;

    peer_header_encode(&b, &header);
    r = wire_reader(buf_bytes(&b));
    cr_assert_eq(peer_header_decode(&r, &out), 0);
    cr_expect_eq(out.cluster_id, 1);
    cr_expect_eq(out.from, 2);
    cr_expect_eq(out.to, 3);
    cr_expect_eq(out.generation, 4);
    for (size_t cut = 0; cut < b.len; cut++) {
        r = wire_reader(bytes_of(b.data, cut));
        cr_expect_neq(peer_header_decode(&r, &out), 0);
    }
    b.data[4]++;
    r = wire_reader(buf_bytes(&b));
    cr_expect_eq(peer_header_decode(&r, &out), -EPROTO);
    b.data[0]++;
    r = wire_reader(buf_bytes(&b));
    cr_expect_eq(peer_header_decode(&r, &out), -EBADMSG);
    buf_fini(&b);
}

Test(peer_msg, frames_in_a_row)
{
    struct buf b = BUF_INIT;
    struct wire_reader r;
    struct peer_frame f;

    for (int i = 0; i < 3; i++) {
        size_t start = peer_frame_begin(&b, PEER_PROPOSE);

        for (int k = 0; k < i; k++)
            buf_append_u8(&b, 'x');
        peer_frame_end(&b, start);
    }
    r = wire_reader(buf_bytes(&b));
    for (size_t i = 0; i < 3; i++) {
        cr_assert_eq(peer_frame_read(&r, &f), 0);
        cr_expect_eq(f.type, PEER_PROPOSE);
        cr_expect_eq(f.body.len, i);
    }
    cr_expect_eq(r.pos, r.end);
    b.data[0] = 0;
    r = wire_reader(buf_bytes(&b));
    cr_expect_neq(peer_frame_read(&r, &f), 0);
    b.data[0] = PEER_TYPE_MAX + 1;
    r = wire_reader(buf_bytes(&b));
    cr_expect_neq(peer_frame_read(&r, &f), 0);
    b.data[0] = PEER_PROPOSE;
    memset(b.data + 1, 0xff, 4);
    r = wire_reader(buf_bytes(&b));
    cr_expect_neq(peer_frame_read(&r, &f), 0);
    buf_fini(&b);
}

static void encode_append(struct buf *b, size_t count)
{
    struct raft_entry *entries[4];
    struct raft_msg m = {
        .type = RAFT_MSG_APPEND, .from = 2, .to = 3, .term = 7, .log_index = 10, .log_term = 6,
        .commit = 9, .hint_index = 8, .hint_term = 5, .context = 99, .reject = true,
        .transfer = true, .entries = entries, .entry_count = count};

    for (size_t i = 0; i < count; i++)
        entries[i] = raft_entry_new(11 + i, 7, i == 1 ? RAFT_ENTRY_CONF : RAFT_ENTRY_NORMAL,
                                    bytes_of("payload", i * 2));
    peer_raft_msg_encode(b, &m);
    for (size_t i = 0; i < count; i++)
        raft_entry_unref(entries[i]);
}

Test(peer_msg, raft)
{
    struct buf b = BUF_INIT;
    struct raft_msg m;

    encode_append(&b, 3);
    cr_assert_eq(peer_raft_msg_decode(buf_bytes(&b), &header, &m), 0);
    cr_expect_eq(m.type, RAFT_MSG_APPEND);
    cr_expect_eq(m.from, 2);
    cr_expect_eq(m.to, 3);
    cr_expect_eq(m.term, 7);
    cr_expect_eq(m.log_index, 10);
    cr_expect_eq(m.log_term, 6);
    cr_expect_eq(m.commit, 9);
    cr_expect_eq(m.hint_index, 8);
    cr_expect_eq(m.hint_term, 5);
    cr_expect_eq(m.context, 99);
    cr_expect(m.reject && m.transfer);
    cr_assert_eq(m.entry_count, 3);
    for (size_t i = 0; i < 3; i++) {
        cr_expect_eq(m.entries[i]->index, 11 + i);
        cr_expect_eq(m.entries[i]->term, 7);
        cr_expect_eq(m.entries[i]->len, i * 2);
    }
    cr_expect_eq(m.entries[1]->type, RAFT_ENTRY_CONF);
    raft_msg_fini(&m);
    for (size_t cut = 0; cut < b.len; cut++)
        cr_expect_neq(peer_raft_msg_decode(bytes_of(b.data, cut), &header, &m), 0);
    buf_append_u8(&b, 0);
    cr_expect_neq(peer_raft_msg_decode(buf_bytes(&b), &header, &m), 0);
    buf_fini(&b);
}

Test(peer_msg, absurd_raft)
{
    static const struct {
        const char *what;
        size_t offset, len;
        uint8_t byte;
    } rows[] = {
        {"type 0", 0, 1, 0},
        {"type beyond the last", 0, 1, RAFT_MSG_TYPE_MAX + 1},
        {"a snapshot from the wire", 0, 1, RAFT_MSG_SNAPSHOT},
        {"entries in a vote", 0, 1, RAFT_MSG_VOTE},
        {"unknown flag", 1, 1, 0x80},
        {"index that wraps", 10, 8, 0xff},
        {"more entries than bytes", 58, 4, 0xff},
        {"entry of term 0", 62, 8, 0},
        {"entry type", 70, 1, 2},
        {"entry longer than the message", 71, 4, 0xff},
    };
    struct raft_msg m;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct buf b = BUF_INIT;

        encode_append(&b, 2);
        memset(b.data + rows[i].offset, rows[i].byte, rows[i].len);
        cr_expect_eq(peer_raft_msg_decode(buf_bytes(&b), &header, &m), -EBADMSG, "%s",
                     rows[i].what);
        buf_fini(&b);
    }
}

Test(peer_msg, nng_url)
{
    static const struct {
        const char *url, *nng;
    } rows[] = {
        {"http://10.0.0.1:2380", "tcp://10.0.0.1:2380"},
        {"http://[::1]:2380", "tcp://[::1]:2380"},
        {"http://db1.example.org:2380", "tcp://db1.example.org:2380"},
        {"http://localhost:2380", "tcp://127.0.0.1:2380"}, /* a machine may lack /etc/hosts */
        {"http://localhost.example.org:2380", "tcp://localhost.example.org:2380"},
        {"unix:///run/peer", "ipc:///run/peer"},
        {"unix://localhost:2380", "ipc://localhost:2380"},
        {"https://10.0.0.1:2380", NULL},
        {"unixs://peer", NULL},
        {"http:/", NULL},
        {"", NULL},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char *nng = peer_nng_url(rows[i].url);

        cr_expect((nng == NULL) == (rows[i].nng == NULL), "%s", rows[i].url);
        if (nng != NULL && rows[i].nng != NULL)
            cr_expect_str_eq(nng, rows[i].nng);
        free(nng);
    }
}

Test(peer_msg, forwarded_questions_carry_anything)
{
    struct buf a = BUF_INIT, b = BUF_INIT;
    struct peer_forward q;
    struct peer_forward_reply p;

    peer_forward_encode(&a, &(struct peer_forward){.call_id = 7, .body = BYTES_LIT("question")});
    cr_assert_eq(peer_forward_decode(buf_bytes(&a), &q), 0);
    cr_expect_eq(q.call_id, 7);
    cr_expect(bytes_eq(q.body, BYTES_LIT("question")));
    peer_forward_reply_encode(
        &b, &(struct peer_forward_reply){.call_id = 8, .outcome = 3, .body = BYTES_LIT("answer")});
    cr_assert_eq(peer_forward_reply_decode(buf_bytes(&b), &p), 0);
    cr_expect_eq(p.call_id, 8);
    cr_expect_eq(p.outcome, 3);
    cr_expect(bytes_eq(p.body, BYTES_LIT("answer")));
    for (size_t cut = 0; cut < sizeof(q.call_id); cut++)
        cr_expect_neq(peer_forward_decode(bytes_of(a.data, cut), &q), 0);
    for (size_t cut = 0; cut < sizeof(p.call_id) + sizeof(p.outcome); cut++)
        cr_expect_neq(peer_forward_reply_decode(bytes_of(b.data, cut), &p), 0);
    buf_fini(&a);
    buf_fini(&b);
}
