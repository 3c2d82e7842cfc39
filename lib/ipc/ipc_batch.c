/*
 * The batch codec. A batch is checked whole before its first frame is delivered, so a malformed one
 * has no effect at all; the second walk touches only frame headers and is cheap.
 */
#include "lib/ipc/ipc_internal.h"

#include <errno.h>
#include "lib/ipc/ipc.h"

bool ipc_batch_is_secret(struct bytes batch)
{
    struct ipc_batch_header h;

    if (batch.len < sizeof(h))
        return false;
    memcpy(&h, batch.data, sizeof(h));
    return (h.flags & IPC_BATCH_SECRET) != 0;
}

int ipc_batch_check(struct bytes batch, struct ipc_batch_header *ret)
{
    struct ipc_batch_header h;
    const uint8_t *pos, *end;

    if (batch.len < sizeof(h))
        return -EBADMSG;
    memcpy(&h, batch.data, sizeof(h));
    if (h.magic != IPC_BATCH_MAGIC || h.version != IPC_BATCH_VERSION || h.epoch == 0)
        return -EBADMSG;
    pos = batch.data + sizeof(h);
    end = batch.data + batch.len;
    for (uint32_t i = 0; i < h.frame_count; i++) {
        struct ipc_frame_header f;

        if ((size_t)(end - pos) < sizeof(f))
            return -EBADMSG;
        memcpy(&f, pos, sizeof(f));
        pos += sizeof(f);
        if (f.reserved != 0 || (f.type < IPC_TYPE_RESERVED && f.type != IPC_TYPE_HELLO))
            return -EBADMSG;
        if (f.body_len > IPC_FRAME_BYTES_MAX || (size_t)(end - pos) < f.body_len)
            return -EBADMSG;
        pos += f.body_len;
    }
    if (pos != end)
        return -EBADMSG;
    *ret = h;
    return 0;
}

struct ipc_batch_reader ipc_batch_reader(struct bytes batch)
{
    struct ipc_batch_header h;

    assert(batch.len >= sizeof(h));
    memcpy(&h, batch.data, sizeof(h));
    return (struct ipc_batch_reader){batch.data + sizeof(h), h.frame_count};
}

bool ipc_batch_next(struct ipc_batch_reader *r, struct ipc_frame *ret)
{
    struct ipc_frame_header f;

    if (r->left == 0)
        return false;
    r->left--;
    memcpy(&f, r->pos, sizeof(f));
    ret->type = f.type;
    ret->id = f.id;
    ret->body = bytes_of(r->pos + sizeof(f), f.body_len);
    r->pos += sizeof(f) + f.body_len;
    return true;
}
