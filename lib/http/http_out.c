/*
 * Output of a connection. Frames of a turn are made into one scratch buffer that all connections
 * share, big pieces of bodies are pointed at where they lie, and one writev hands it all over. Only
 * what the kernel does not take is copied into memory of the connection, so a connection that keeps
 * up owns no output buffer at all.
 */
#include "lib/http/http_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include "lib/util/shared_bytes.h"
#include "lib/util/xmalloc.h"

void http_scratch_clear(struct http_scratch *s)
{
    buf_clear(&s->buf);
    s->seg_count = 0;
    s->len = 0;
}

uint8_t *http_scratch_reserve(struct http_scratch *s, size_t len)
{
    return buf_reserve(&s->buf, len);
}

/* What was written behind the end of the buffer becomes part of the output: of the last segment
 * when that lies in the buffer too (segments in the buffer are contiguous, since only they add to
 * it). */
void http_scratch_commit(struct http_scratch *s, size_t len)
{
    struct http_seg *last = s->seg_count != 0 ? &s->segs[s->seg_count - 1] : NULL;

    if (len == 0)
        return;
    if (last != NULL && last->data == NULL) {
        last->len += len;
    } else {
        assert(s->seg_count < HTTP_SEGMENTS_MAX);
        s->segs[s->seg_count++] = (struct http_seg){.data = NULL, .off = s->buf.len, .len = len};
    }
    s->buf.len += len;
    s->len += len;
}

void http_scratch_copy(struct http_scratch *s, const void *data, size_t len)
{
    if (len == 0)
        return;
    memcpy(http_scratch_reserve(s, len), data, len);
    http_scratch_commit(s, len);
}

void http_scratch_ref(struct http_scratch *s, const void *data, size_t len)
{
    assert(s->seg_count < HTTP_SEGMENTS_MAX);
    s->segs[s->seg_count++] = (struct http_seg){.data = data, .off = 0, .len = len};
    s->len += len;
}

/* Two segments are left for the frame that is being made: a header copied and its payload. */
bool http_scratch_full(const struct http_scratch *s)
{
    return s->len >= HTTP_WRITE_ROUND_BYTES || s->seg_count + 4 > HTTP_SEGMENTS_MAX;
}

static const uint8_t *seg_data(const struct http_scratch *s, const struct http_seg *seg)
{
    return seg->data != NULL ? seg->data : s->buf.data + seg->off;
}

void http_out_fini(struct http_out *o)
{
    buf_fini(&o->buf);
    o->off = 0;
}

/* Moves what was not written, from `skip` bytes into the scratch, to the own buffer. */
static void out_keep(struct http_out *o, const struct http_scratch *s, size_t skip)
{
    for (size_t i = 0; i < s->seg_count; i++) {
        const struct http_seg *seg = &s->segs[i];

        if (skip >= seg->len) {
            skip -= seg->len;
            continue;
        }
        buf_append(&o->buf, seg_data(s, seg) + skip, seg->len - skip);
        skip = 0;
    }
}

int http_out_write(struct http_out *o, struct http_transport *t, struct http_scratch *s,
                   uint64_t *written)
{
    struct iovec iov[HTTP_SEGMENTS_MAX + 1];
    size_t own = http_out_pending(o);
    size_t total = own + (s != NULL ? s->len : 0);
    int count = 0;
    ssize_t n;

    if (total == 0)
        return 0;
    if (own != 0)
        iov[count++] = (struct iovec){.iov_base = o->buf.data + o->off, .iov_len = own};
    for (size_t i = 0; s != NULL && i < s->seg_count; i++)
        iov[count++] =
            (struct iovec){.iov_base = (void *)seg_data(s, &s->segs[i]), .iov_len = s->segs[i].len};
    n = t->ops->writev(t, iov, count);
    if (n == -EAGAIN)
        n = 0;
    if (n < 0)
        return (int)n;
    *written += (uint64_t)n;
    if ((size_t)n < own) {
        o->off += (size_t)n;
        if (s != NULL)
            out_keep(o, s, 0);
    } else {
        o->off = 0;
        buf_clear(&o->buf);
        if (s != NULL && (size_t)n < total)
            out_keep(o, s, (size_t)n - own);
    }
    if (o->buf.len == 0)
        buf_trim(&o->buf, 2048);
    if (o->off > HTTP_READ_BYTES && o->off > o->buf.len / 2) {
        buf_consume(&o->buf, o->off);
        o->off = 0;
    }
    if (s != NULL)
        http_scratch_clear(s);
    return 0;
}

void http_chunk_push(struct http_chunk_queue *q, struct http_chunk *c)
{
    c->next = NULL;
    if (q->tail != NULL)
        q->tail->next = c;
    else
        q->head = c;
    q->tail = c;
}

struct http_chunk *http_chunk_pop(struct http_chunk_queue *q)
{
    struct http_chunk *c = q->head;

    if (c == NULL)
        return NULL;
    q->head = c->next;
    if (q->head == NULL)
        q->tail = NULL;
    c->next = NULL;
    return c;
}

void http_chunk_queue_free(struct http_chunk_queue *q)
{
    struct http_chunk *c;

    while ((c = http_chunk_pop(q)) != NULL)
        if (c->heap) {
            shared_bytes_unref(c->shared);
            free(c);
        }
}

struct http_chunk *http_chunk_new(const struct bytes *pieces, size_t count, size_t len)
{
    struct http_chunk *c = xmalloc(sizeof(*c) + len);

    *c = (struct http_chunk){.data = (uint8_t *)(c + 1), .len = len, .heap = true};
    http_pieces_copy(c->data, pieces, count);
    return c;
}

struct http_chunk *http_chunk_new_shared(struct shared_bytes *shared, size_t off, size_t len)
{
    struct http_chunk *c = xmalloc(sizeof(*c));

    assert(off <= shared->len && len <= shared->len - off);
    *c = (struct http_chunk){.data = shared->data + off,
                             .len = len,
                             .heap = true,
                             .shared = shared_bytes_ref(shared)};
    return c;
}
