#include "raftd/peer/peer_msg.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "lib/util/xmalloc.h"

enum {
    PEER_MAGIC = 0x50564e43, /* "CNVP" */
    ENTRY_BYTES_MIN = 8 + 1 + 4,
    FLAG_REJECT = 1,
    FLAG_TRANSFER = 2,
};

void peer_header_encode(struct buf *b, const struct peer_header *h)
{
    wire_put_u32(b, PEER_MAGIC);
    wire_put_u32(b, PEER_VERSION);
    wire_put_u64(b, h->cluster_id);
    wire_put_u64(b, h->from);
    wire_put_u64(b, h->to);
    wire_put_u64(b, h->generation);
}

int peer_header_decode(struct wire_reader *r, struct peer_header *ret)
{
    uint32_t magic = wire_get_u32(r), version = wire_get_u32(r);

    if (r->bad || magic != PEER_MAGIC)
        return -EBADMSG;
    if (version != PEER_VERSION)
        return -EPROTO;
    ret->cluster_id = wire_get_u64(r);
    ret->from = wire_get_u64(r);
    ret->to = wire_get_u64(r);
    ret->generation = wire_get_u64(r);
    return r->bad ? -EBADMSG : 0;
}

size_t peer_frame_begin(struct buf *b, enum peer_type type)
{
    size_t start = b->len;

    wire_put_u8(b, (uint8_t)type);
    wire_put_u32(b, 0);
    return start;
}

void peer_frame_end(struct buf *b, size_t start)
{
    uint32_t len = (uint32_t)(b->len - start - 5);

    memcpy(b->data + start + 1, &len, sizeof(len));
}

int peer_frame_read(struct wire_reader *r, struct peer_frame *ret)
{
    uint8_t type = wire_get_u8(r);

    ret->body = wire_get_bytes(r);
    if (r->bad || type < PEER_HELLO || type > PEER_TYPE_MAX)
        return -EBADMSG;
    ret->type = (enum peer_type)type;
    return 0;
}

void peer_raft_msg_encode(struct buf *b, const struct raft_msg *m)
{
    assert(m->type != RAFT_MSG_SNAPSHOT);
    wire_put_u8(b, (uint8_t)m->type);
    wire_put_u8(b, (uint8_t)((m->reject ? FLAG_REJECT : 0) | (m->transfer ? FLAG_TRANSFER : 0)));
    wire_put_u64(b, m->term);
    wire_put_u64(b, m->log_index);
    wire_put_u64(b, m->log_term);
    wire_put_u64(b, m->commit);
    wire_put_u64(b, m->hint_index);
    wire_put_u64(b, m->hint_term);
    wire_put_u64(b, m->context);
    wire_put_u32(b, (uint32_t)m->entry_count);
    for (size_t i = 0; i < m->entry_count; i++) {
        const struct raft_entry *e = m->entries[i];

        assert(e->index == m->log_index + 1 + i);
        wire_put_u64(b, e->term);
        wire_put_u8(b, e->type);
        wire_put_bytes(b, raft_entry_bytes(e));
    }
}

int peer_raft_msg_decode(struct bytes body, const struct peer_header *h, struct raft_msg *ret)
{
    struct wire_reader r = wire_reader(body);
    uint8_t type = wire_get_u8(&r), flags = wire_get_u8(&r);
    struct raft_msg m = {.from = h->from, .to = h->to};
    uint32_t count;

    m.reject = (flags & FLAG_REJECT) != 0;
    m.transfer = (flags & FLAG_TRANSFER) != 0;
    m.term = wire_get_u64(&r);
    m.log_index = wire_get_u64(&r);
    m.log_term = wire_get_u64(&r);
    m.commit = wire_get_u64(&r);
    m.hint_index = wire_get_u64(&r);
    m.hint_term = wire_get_u64(&r);
    m.context = wire_get_u64(&r);
    count = wire_get_u32(&r);
    if (r.bad || type < RAFT_MSG_APPEND || type > RAFT_MSG_TYPE_MAX || type == RAFT_MSG_SNAPSHOT ||
        (flags & ~(FLAG_REJECT | FLAG_TRANSFER)) != 0 ||
        count > (size_t)(r.end - r.pos) / ENTRY_BYTES_MIN ||
        (count != 0 && (type != RAFT_MSG_APPEND || m.log_index > UINT64_MAX - count)))
        return -EBADMSG;
    m.type = (enum raft_msg_type)type;
    if (count != 0)
        m.entries = xcalloc(count, sizeof(*m.entries)); /* bounded by the batch's own length */
    for (uint32_t i = 0; i < count; i++) {
        raft_term term = wire_get_u64(&r);
        uint8_t entry_type = wire_get_u8(&r);
        struct bytes data = wire_get_bytes(&r);

        if (r.bad || entry_type > RAFT_ENTRY_CONF || data.len > RAFT_ENTRY_BYTES_MAX || term == 0) {
            r.bad = true;
            break;
        }
        m.entries[m.entry_count++] =
            raft_entry_new(m.log_index + 1 + i, term, (enum raft_entry_type)entry_type, data);
    }
    if (wire_reader_done(&r) != 0) {
        raft_msg_fini(&m);
        return -EBADMSG;
    }
    *ret = m;
    return 0;
}

void peer_hello_encode(struct buf *b, const struct peer_hello *m)
{
    wire_put_bytes(b, m->peer_urls);
}

int peer_hello_decode(struct bytes body, struct peer_hello *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->peer_urls = wire_get_bytes(&r);
    return wire_reader_done(&r);
}

void peer_propose_failed_encode(struct buf *b, const struct peer_propose_failed *m)
{
    wire_put_u64(b, m->generation);
    wire_put_u64(b, m->request_id);
    wire_put_u16(b, m->outcome);
}

int peer_propose_failed_decode(struct bytes body, struct peer_propose_failed *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->generation = wire_get_u64(&r);
    ret->request_id = wire_get_u64(&r);
    ret->outcome = wire_get_u16(&r);
    return wire_reader_done(&r);
}

void peer_members_encode(struct buf *b, const struct peer_members *m)
{
    wire_put_u64(b, m->cluster_id);
    wire_put_bytes(b, m->members);
}

int peer_members_decode(struct bytes body, struct peer_members *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->cluster_id = wire_get_u64(&r);
    ret->members = wire_get_bytes(&r);
    return wire_reader_done(&r);
}

void peer_snap_meta_encode(struct buf *b, const struct peer_snap_meta *m)
{
    wire_put_u64(b, m->transfer_id);
    wire_put_u64(b, m->term);
    wire_put_bytes(b, m->meta);
}

int peer_snap_meta_decode(struct bytes body, struct peer_snap_meta *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->transfer_id = wire_get_u64(&r);
    ret->term = wire_get_u64(&r);
    ret->meta = wire_get_bytes(&r);
    return wire_reader_done(&r);
}

void peer_snap_ack_encode(struct buf *b, const struct peer_snap_ack *m)
{
    wire_put_u64(b, m->transfer_id);
    wire_put_u64(b, m->consumed);
}

int peer_snap_ack_decode(struct bytes body, struct peer_snap_ack *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->transfer_id = wire_get_u64(&r);
    ret->consumed = wire_get_u64(&r);
    return wire_reader_done(&r);
}

void peer_snap_end_encode(struct buf *b, const struct peer_snap_end *m)
{
    wire_put_u64(b, m->transfer_id);
    wire_put_u64(b, m->index);
    wire_put_u16(b, m->outcome);
}

int peer_snap_end_decode(struct bytes body, struct peer_snap_end *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->transfer_id = wire_get_u64(&r);
    ret->index = wire_get_u64(&r);
    ret->outcome = wire_get_u16(&r);
    return wire_reader_done(&r);
}

void peer_hash_encode(struct buf *b, const struct peer_hash *m)
{
    wire_put_u64(b, m->index);
    wire_put_u64(b, m->chain_hash);
}

int peer_hash_decode(struct bytes body, struct peer_hash *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->index = wire_get_u64(&r);
    ret->chain_hash = wire_get_u64(&r);
    return wire_reader_done(&r);
}

void peer_forward_encode(struct buf *b, const struct peer_forward *m)
{
    wire_put_u64(b, m->call_id);
    buf_append_bytes(b, m->body);
}

int peer_forward_decode(struct bytes body, struct peer_forward *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->call_id = wire_get_u64(&r);
    ret->body = wire_rest(&r);
    return wire_reader_done(&r);
}

void peer_forward_reply_encode(struct buf *b, const struct peer_forward_reply *m)
{
    wire_put_u64(b, m->call_id);
    wire_put_u16(b, m->outcome);
    buf_append_bytes(b, m->body);
}

int peer_forward_reply_decode(struct bytes body, struct peer_forward_reply *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->call_id = wire_get_u64(&r);
    ret->outcome = wire_get_u16(&r);
    ret->body = wire_rest(&r);
    return wire_reader_done(&r);
}

char *peer_nng_url(const char *url)
{
    static const char tcp[] = "http://", local[] = "localhost:", ipc[] = "unix://";
    const char *address;

    if (strncmp(url, ipc, strlen(ipc)) == 0)
        return xasprintf("ipc://%s", url + strlen(ipc));
    if (strncmp(url, tcp, strlen(tcp)) != 0)
        return NULL;
    address = url + strlen(tcp);
    if (strncmp(address, local, strlen(local)) == 0)
        return xasprintf("tcp://127.0.0.1:%s", address + strlen(local));
    return xasprintf("tcp://%s", address);
}
