/* Encoding of what the keyspace writes and answers. */
#include "stored/kv/kv_internal.h"

#include <assert.h>
#include <errno.h>

#include "lib/wire/pb.h"
#include "lib/wire/wire.h"

enum { BATCH_RECORD_VERSION = 1 };
enum { FLAG_BASE = 1, FLAG_MEMBERS = 2, FLAG_ALARMS = 4, FLAG_VERSION = 8, FLAG_LEASES = 16,
       FLAG_LEASE_OPS = 32, FLAG_AUTH = 64 };

size_t kv_record_size(const struct kv_record *r)
{
    return pb_size_bytes(1, r->key.len) + pb_size_u64(2, (uint64_t)r->create_revision) +
           pb_size_u64(3, (uint64_t)r->mod_revision) + pb_size_u64(4, (uint64_t)r->version) +
           pb_size_bytes(5, r->value.len) + pb_size_u64(6, (uint64_t)r->lease) + r->is_delete;
}

static uint8_t *put_varint(uint8_t *p, uint64_t v)
{
    while (v >= 0x80) {
        *p++ = (uint8_t)(v | 0x80);
        v >>= 7;
    }
    *p++ = (uint8_t)v;
    return p;
}

static uint8_t *put_number(uint8_t *p, unsigned int field, int64_t v)
{
    if (v == 0)
        return p;
    *p++ = (uint8_t)(field << 3 | PB_VARINT);
    return put_varint(p, (uint64_t)v);
}

static uint8_t *put_run(uint8_t *p, unsigned int field, struct bytes v)
{
    if (v.len == 0)
        return p;
    *p++ = (uint8_t)(field << 3 | PB_LENGTH);
    p = put_varint(p, v.len);
    memcpy(p, v.data, v.len);
    return p + v.len;
}

void kv_record_encode(const struct kv_record *r, uint8_t *out)
{
    uint8_t *p = out;

    if (r->is_delete)
        *p++ = 0;
    p = put_run(p, 1, r->key);
    p = put_number(p, 2, r->create_revision);
    p = put_number(p, 3, r->mod_revision);
    p = put_number(p, 4, r->version);
    p = put_run(p, 5, r->value);
    p = put_number(p, 6, r->lease);
    assert((size_t)(p - out) == kv_record_size(r));
}

int kv_record_decode(struct bytes data, struct kv_record *ret)
{
    struct pb_reader r;
    struct pb_field f;

    *ret = (struct kv_record){0};
    if (data.len > 0 && data.data[0] == 0) {
        ret->is_delete = true;
        data.data++;
        data.len--;
    }
    r = pb_reader(data);
    while (pb_next(&r, &f)) {
        switch (f.number) {
        case 1:
            ret->key = f.bytes;
            break;
        case 2:
            ret->create_revision = (int64_t)f.value;
            break;
        case 3:
            ret->mod_revision = (int64_t)f.value;
            break;
        case 4:
            ret->version = (int64_t)f.value;
            break;
        case 5:
            ret->value = f.bytes;
            break;
        case 6:
            ret->lease = (int64_t)f.value;
            break;
        default:
            return -EBADMSG;
        }
    }
    return r.bad || ret->key.len == 0 ? -EBADMSG : 0;
}

size_t kv_pb_begin(struct buf *b, uint32_t field)
{
    pb_put_tag(b, field, PB_LENGTH);
    buf_append_u8(b, 0); /* most messages are shorter than 128 bytes */
    return b->len;
}

void kv_pb_end(struct buf *b, size_t at)
{
    size_t len = b->len - at, extra = pb_varint_size(len) - 1;

    if (extra > 0) {
        buf_reserve(b, extra);
        memmove(b->data + at + extra, b->data + at, len);
        b->len += extra;
    }
    put_varint(b->data + at - 1, len);
}

void kv_put_header(struct buf *b, const struct kv_header *header, int64_t revision)
{
    size_t at = kv_pb_begin(b, 1);

    if (header != NULL) {
        pb_put_u64(b, 1, header->cluster_id);
        pb_put_u64(b, 2, header->member_id);
    }
    pb_put_i64(b, 3, revision);
    if (header != NULL)
        pb_put_u64(b, 4, header->raft_term);
    kv_pb_end(b, at);
}

void kv_batch_record_encode(struct buf *b, const struct kv_batch_record *r)
{
    wire_put_u8(b, BATCH_RECORD_VERSION);
    wire_put_u8(b, (uint8_t)((r->is_base ? FLAG_BASE : 0) | (r->has_members ? FLAG_MEMBERS : 0) |
                             (r->has_alarms ? FLAG_ALARMS : 0) |
                             (r->has_version ? FLAG_VERSION : 0) |
                             (r->has_leases ? FLAG_LEASES : 0) |
                             (r->has_lease_ops ? FLAG_LEASE_OPS : 0) |
                             (r->has_auth ? FLAG_AUTH : 0)));
    wire_put_u64(b, r->prev_index);
    wire_put_u64(b, r->prev_hash);
    wire_put_u64(b, r->hash);
    wire_put_u64(b, r->term);
    wire_put_i64(b, r->revision);
    wire_put_i64(b, r->compact_revision);
    if (r->has_members)
        wire_put_bytes(b, r->members);
    if (r->has_alarms)
        wire_put_bytes(b, r->alarms);
    if (r->has_version)
        wire_put_bytes(b, r->version);
    if (r->has_leases)
        wire_put_bytes(b, r->leases);
    if (r->has_lease_ops)
        wire_put_bytes(b, r->lease_ops);
    if (r->has_auth)
        wire_put_bytes(b, r->auth);
}

int kv_batch_record_decode(struct bytes data, struct kv_batch_record *ret)
{
    struct wire_reader r = wire_reader(data);
    uint8_t flags;

    *ret = (struct kv_batch_record){0};
    if (wire_get_u8(&r) != BATCH_RECORD_VERSION)
        return -EBADMSG;
    flags = wire_get_u8(&r);
    ret->is_base = (flags & FLAG_BASE) != 0;
    ret->has_members = (flags & FLAG_MEMBERS) != 0;
    ret->has_alarms = (flags & FLAG_ALARMS) != 0;
    ret->has_version = (flags & FLAG_VERSION) != 0;
    ret->has_leases = (flags & FLAG_LEASES) != 0;
    ret->has_lease_ops = (flags & FLAG_LEASE_OPS) != 0;
    ret->has_auth = (flags & FLAG_AUTH) != 0;
    ret->prev_index = wire_get_u64(&r);
    ret->prev_hash = wire_get_u64(&r);
    ret->hash = wire_get_u64(&r);
    ret->term = wire_get_u64(&r);
    ret->revision = wire_get_i64(&r);
    ret->compact_revision = wire_get_i64(&r);
    if (ret->has_members)
        ret->members = wire_get_bytes(&r);
    if (ret->has_alarms)
        ret->alarms = wire_get_bytes(&r);
    if (ret->has_version)
        ret->version = wire_get_bytes(&r);
    if (ret->has_leases)
        ret->leases = wire_get_bytes(&r);
    if (ret->has_lease_ops)
        ret->lease_ops = wire_get_bytes(&r);
    if (ret->has_auth)
        ret->auth = wire_get_bytes(&r);
    return wire_reader_done(&r);
}

int kv_load_tables(struct kv *kv, const struct kv_batch_record *r)
{
    int result = 0;

    if (r->has_members)
        result = store_members_decode(&kv->members, r->members);
    if (result == 0 && r->has_alarms)
        result = store_alarms_decode(&kv->alarms, r->alarms);
    if (result == 0 && r->has_version) {
        buf_clear(&kv->cluster_version);
        buf_append_bytes(&kv->cluster_version, r->version);
    }
    if (result == 0 && r->has_leases)
        result = lease_table_decode(&kv->leases, r->leases);
    if (result == 0 && r->has_auth) {
        result = auth_store_decode(&kv->auth, r->auth);
        kv->auth_generation++;
    }
    kv->tables_generation++;
    return result;
}
