#include "lib/util/member_id.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include "lib/util/buf.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"

/* Also the byte order of etcd's ids: the digest's first eight bytes as a big-endian number. */
static uint64_t sha1_prefix(struct bytes v)
{
    uint8_t digest[EVP_MAX_MD_SIZE];
    unsigned int len = 0;
    uint64_t id = 0;

    if (EVP_Digest(v.len != 0 ? v.data : (const uint8_t *)"", v.len, digest, &len, EVP_sha1(),
                   NULL) != 1 ||
        len < 8)
        PANIC("SHA-1 is not available");
    for (int i = 0; i < 8; i++)
        id = id << 8 | digest[i];
    return id;
}

static int text_cmp(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

uint64_t member_id_derive(const char *const *peer_urls, size_t count, const char *token,
                          const char *unix_seconds)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;
    CLEANUP(freep) const char **sorted = xcalloc(count + 1, sizeof(*sorted));

    for (size_t i = 0; i < count; i++)
        sorted[i] = peer_urls[i];
    qsort(sorted, count, sizeof(*sorted), text_cmp);
    for (size_t i = 0; i < count; i++)
        buf_append(&b, sorted[i], strlen(sorted[i]));
    buf_append(&b, token, strlen(token));
    if (unix_seconds != NULL)
        buf_append(&b, unix_seconds, strlen(unix_seconds));
    return sha1_prefix(buf_bytes(&b));
}

static int id_cmp(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

uint64_t cluster_id_derive(const uint64_t *member_ids, size_t count)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;
    CLEANUP(freep) uint64_t *sorted = xcalloc(count + 1, sizeof(*sorted));

    memcpy(sorted, member_ids, count * sizeof(*sorted));
    qsort(sorted, count, sizeof(*sorted), id_cmp);
    for (size_t i = 0; i < count; i++) {
        for (int shift = 56; shift >= 0; shift -= 8)
            buf_append_u8(&b, (uint8_t)(sorted[i] >> shift));
    }
    return sha1_prefix(buf_bytes(&b));
}
