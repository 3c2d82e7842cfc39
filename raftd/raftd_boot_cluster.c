#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include "lib/proto/messages.h"
#include "lib/util/macros.h"
#include "lib/util/member_id.h"
#include "lib/util/xmalloc.h"
#include "raftd/raftd_bootstrap.h"

void boot_cluster_fini(struct boot_cluster *c)
{
    for (size_t i = 0; i < c->count; i++) {
        free(c->list[i].name);
        url_list_fini(&c->list[i].urls);
    }
    free(c->list);
    *c = (struct boot_cluster){0};
}

struct boot_member *boot_cluster_find(const struct boot_cluster *c, const char *name)
{
    for (size_t i = 0; i < c->count; i++) {
        if (strcmp(c->list[i].name, name) == 0)
            return &c->list[i];
    }
    return NULL;
}

static int text_cmp(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

char *boot_cluster_text(const struct boot_cluster *c)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;
    char **pairs = NULL;
    size_t count = 0;

    for (size_t i = 0; i < c->count; i++) {
        for (size_t k = 0; k < c->list[i].urls.count; k++) {
            pairs = xreallocarray(pairs, count + 1, sizeof(*pairs));
            pairs[count++] = xasprintf("%s=%s", c->list[i].name, c->list[i].urls.items[k]);
        }
    }
    if (count != 0)
        qsort(pairs, count, sizeof(*pairs), text_cmp);
    for (size_t i = 0; i < count; i++) {
        buf_appendf(&b, "%s%s", i != 0 ? "," : "", pairs[i]);
        free(pairs[i]);
    }
    free(pairs);
    return xstrndup((const char *)b.data, b.len);
}

static int add_pair(struct boot_cluster *c, const char *item, char **ret_error)
{
    const char *eq = strchr(item, '=');
    CLEANUP(freep) char *name = eq != NULL ? xstrndup(item, (size_t)(eq - item)) : xstrdup("");
    struct boot_member *m;
    struct url u;
    int r;

    if (eq == NULL || eq[1] == '\0') {
        *ret_error = xasprintf("empty URL given for \"%s\"", eq != NULL ? name : item);
        return -EINVAL;
    }
    r = url_parse(bytes_str(eq + 1), &u, ret_error);
    if (r != 0)
        return r;
    m = boot_cluster_find(c, name);
    if (m == NULL) {
        c->list = xreallocarray(c->list, c->count + 1, sizeof(*c->list));
        m = &c->list[c->count++];
        *m = (struct boot_member){.name = TAKE(name)};
    }
    url_list_add(&m->urls, bytes_str(u.text));
    url_fini(&u);
    return 0;
}

static bool has_duplicate_url(const struct boot_cluster *c)
{
    for (size_t i = 0; i < c->count; i++) {
        for (size_t k = 0; k < i; k++) {
            for (size_t a = 0; a < c->list[i].urls.count; a++) {
                for (size_t b = 0; b < c->list[k].urls.count; b++) {
                    if (strcmp(c->list[i].urls.items[a], c->list[k].urls.items[b]) == 0)
                        return true;
                }
            }
        }
    }
    return false;
}

int boot_cluster_parse(const char *text, struct boot_cluster *ret, char **ret_error)
{
    CLEANUP(freep) char *copy = xstrdup(text);
    struct boot_cluster c = {0};
    char *save = NULL;
    int r = 0;

    for (char *item = strtok_r(copy, ",", &save); item != NULL && r == 0;
         item = strtok_r(NULL, ",", &save)) {
        item += strspn(item, " \t");
        if (*item != '\0')
            r = add_pair(&c, item, ret_error);
        if (r == 0 && c.count > RAFT_MEMBERS_MAX) {
            *ret_error = xasprintf("initial cluster has more than %d members", RAFT_MEMBERS_MAX);
            r = -EINVAL;
        }
    }
    if (r == 0 && c.count == 0) {
        *ret_error = xstrdup("initial cluster unset and no discovery URL found");
        r = -EINVAL;
    }
    if (r == 0 && has_duplicate_url(&c)) {
        CLEANUP(freep) char *map = boot_cluster_text(&c);

        *ret_error = xasprintf("initial cluster %s has duplicate url", map);
        r = -EINVAL;
    }
    if (r != 0) {
        boot_cluster_fini(&c);
        return r;
    }
    *ret = c;
    return 0;
}

/* "scheme://address:port" of the first address; NULL: does not resolve. */
static char *resolve(const char *text)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *list;
    CLEANUP(freep) char *error = NULL;
    char host[NI_MAXHOST];
    struct url u;
    char *out = NULL;

    if (url_parse(bytes_str(text), &u, &error) != 0)
        return NULL;
    if (*u.port == '\0') {
        out = xstrdup(text);
    } else if (getaddrinfo(url_dial_host(&u), u.port, &hints, &list) == 0) {
        if (getnameinfo(list->ai_addr, list->ai_addrlen, host, sizeof(host), NULL, 0,
                        NI_NUMERICHOST) == 0)
            out = xasprintf("%s://%s:%s", u.scheme, host, u.port);
        freeaddrinfo(list);
    }
    url_fini(&u);
    return out;
}

/* Equal as they are, or after resolving names. When not, *ret_why (free()) says which differ. */
static bool urls_equal(const struct url_list *a, const struct url_list *b, char **ret_why)
{
    struct url_list x = {0}, y = {0};
    bool equal;

    if (url_list_eq(a, b))
        return true;
    if (a->count != b->count) {
        *ret_why = xasprintf("%zu URLs against %zu", a->count, b->count);
        return false;
    }
    for (size_t i = 0; i < a->count + b->count; i++) {
        const char *text = i < a->count ? a->items[i] : b->items[i - a->count];
        CLEANUP(freep) char *to = resolve(text);

        if (to == NULL) {
            *ret_why = xasprintf("failed to resolve \"%s\"", text);
            url_list_fini(&x);
            url_list_fini(&y);
            return false;
        }
        url_list_add(i < a->count ? &x : &y, bytes_str(to));
    }
    equal = url_list_eq(&x, &y);
    if (!equal)
        *ret_why = xasprintf("resolved urls: \"%s\" != \"%s\"", x.items[0], y.items[0]);
    url_list_fini(&x);
    url_list_fini(&y);
    return equal;
}

static bool list_has(const struct url_list *l, const char *text)
{
    for (size_t i = 0; i < l->count; i++) {
        if (strcmp(l->items[i], text) == 0)
            return true;
    }
    return false;
}

/* Those of `a` that `b` lacks, comma-separated, each behind `prefix`. */
static void missing_urls(struct buf *out, const struct url_list *a, const struct url_list *b,
                         const char *prefix)
{
    for (size_t i = 0; i < a->count; i++) {
        if (!list_has(b, a->items[i]))
            buf_appendf(out, "%s%s%s", out->len != 0 ? "," : "", prefix, a->items[i]);
    }
}

int boot_cluster_check(const struct boot_cluster *c, const char *name,
                       const struct url_list *advertised, char **ret_error)
{
    CLEANUP(buf_fini) struct buf missing = BUF_INIT;
    CLEANUP(freep) char *why = NULL;
    CLEANUP(freep) char *prefix = xasprintf("%s=", name);
    CLEANUP(freep) char *joined = url_list_join(advertised);
    const struct boot_member *self = boot_cluster_find(c, name);

    if (self == NULL) {
        *ret_error = xasprintf("couldn't find local name \"%s\" in the initial cluster "
                               "configuration", name);
        return -EINVAL;
    }
    if (urls_equal(advertised, &self->urls, &why))
        return 0;
    missing_urls(&missing, &self->urls, advertised, prefix);
    if (missing.len != 0) {
        *ret_error = xasprintf("--initial-cluster has %.*s but missing from "
                               "--initial-advertise-peer-urls=%s (%s)",
                               (int)missing.len, (const char *)missing.data, joined, why);
        return -EINVAL;
    }
    missing_urls(&missing, advertised, &self->urls, "");
    CLEANUP(freep) char *ours = url_list_join(&self->urls);
    *ret_error = xasprintf("--initial-advertise-peer-urls has %.*s but missing from "
                           "--initial-cluster=%s%s",
                           (int)missing.len, (const char *)missing.data, prefix, ours);
    return -EINVAL;
}

uint64_t boot_cluster_derive(struct boot_cluster *c, const char *token)
{
    CLEANUP(freep) uint64_t *ids = xcalloc(c->count + 1, sizeof(*ids));

    for (size_t i = 0; i < c->count; i++) {
        struct boot_member *m = &c->list[i];

        ids[i] = m->id =
            member_id_derive((const char *const *)m->urls.items, m->urls.count, token, NULL);
    }
    return cluster_id_derive(ids, c->count);
}

static char *describe(const struct boot_cluster *c)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    buf_appendf(&b, "{ClusterID:0 Members:[");
    for (size_t i = 0; i < c->count; i++) {
        CLEANUP(freep) char *urls = url_list_join(&c->list[i].urls);

        buf_appendf(&b,
                    "%s&{ID:%" PRIx64
                    " RaftAttributes:{PeerURLs:[%s]} Attributes:{Name:%s ClientURLs:[]}}",
                    i != 0 ? " " : "", c->list[i].id, urls, c->list[i].name);
    }
    buf_appendf(&b, "] RemovedMemberIDs:[]}");
    return xstrndup((const char *)b.data, b.len);
}

int boot_cluster_match(struct boot_cluster *c, const struct raftd_members *remote,
                       char **ret_error)
{
    CLEANUP(freep) char *cluster = describe(c);
    size_t living = 0;

    for (size_t i = 0; i < remote->count; i++)
        living += !remote->list[i].removed;
    if (living != c->count) {
        *ret_error =
            xasprintf("error validating peerURLs %s: member count is unequal", cluster);
        return -EINVAL;
    }
    for (size_t i = 0; i < remote->count; i++) {
        const struct raftd_member *m = &remote->list[i];
        CLEANUP(freep) char *why = NULL;
        bool found = m->removed;

        for (size_t k = 0; k < c->count && !found; k++) {
            free(why);
            why = NULL;
            if (c->list[k].id == 0 && urls_equal(&m->peer_urls, &c->list[k].urls, &why)) {
                c->list[k].id = m->id;
                found = true;
            }
        }
        if (!found) {
            CLEANUP(freep) char *urls = url_list_join(&m->peer_urls);

            *ret_error = xasprintf("error validating peerURLs %s: PeerURLs: no match found for "
                                   "existing member (%" PRIx64 ", [%s]), last resolver error (%s)",
                                   cluster, m->id, urls, why != NULL ? why : "none");
            return -EINVAL;
        }
    }
    return 0;
}

static int member_cmp(const void *a, const void *b)
{
    uint64_t x = ((const struct boot_member *)a)->id, y = ((const struct boot_member *)b)->id;

    return x < y ? -1 : x > y;
}

void boot_cluster_entries(struct boot_cluster *c, struct buf *b, size_t *ret_ends)
{
    qsort(c->list, c->count, sizeof(*c->list), member_cmp);
    for (size_t i = 0; i < c->count; i++) {
        CLEANUP(freep) char *urls = url_list_join(&c->list[i].urls);
        CLEANUP(buf_fini) struct buf body = BUF_INIT;
        struct proto_conf_change change = {
            .op = PROTO_CONF_ADD_VOTER,
            .member = {.id = c->list[i].id, .peer_urls = bytes_str(urls)}};
        struct proto_payload payload = {.kind = PROTO_KIND_CONF_CHANGE};

        proto_conf_change_encode(&body, &change);
        payload.body = buf_bytes(&body);
        proto_payload_encode(b, &payload);
        ret_ends[i] = b->len;
    }
}

void boot_cluster_members(struct boot_cluster *c, struct buf *b)
{
    qsort(c->list, c->count, sizeof(*c->list), member_cmp);
    for (size_t i = 0; i < c->count; i++) {
        CLEANUP(freep) char *urls = url_list_join(&c->list[i].urls);

        proto_member_encode(b, &(struct proto_member){.id = c->list[i].id,
                                                      .name = bytes_str(c->list[i].name),
                                                      .peer_urls = bytes_str(urls)});
    }
}
