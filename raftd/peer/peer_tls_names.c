/*
 * Names and addresses. Resolving blocks, so it is a job on a worker; the link that asked may be gone
 * when the answer comes, and then nobody is told.
 */
#include "raftd/peer/peer_tls_internal.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "lib/util/xmalloc.h"

struct peer_tls_lookup {
    struct peer_tls_link *link; /* NULL: gone. Loop thread only */
    bool by_names;
    char *host, *port;
    char *names[PEER_TLS_NAMES_MAX];
    size_t name_count;
    struct sockaddr_storage from;
    /* the answer */
    struct sockaddr_storage addresses[PEER_TLS_ADDRESSES_MAX];
    size_t address_count;
    bool matches;
};

static uint16_t port_number(const char *port)
{
    return htons((uint16_t)strtoul(port, NULL, 10));
}

bool peer_tls_parse_address(const char *host, const char *port, struct sockaddr_storage *ret)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = port_number(port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = port_number(port)};

    memset(ret, 0, sizeof(*ret));
    if (inet_pton(AF_INET, host, &v4.sin_addr) == 1)
        memcpy(ret, &v4, sizeof(v4));
    else if (inet_pton(AF_INET6, host, &v6.sin6_addr) == 1)
        memcpy(ret, &v6, sizeof(v6));
    else
        return false;
    return true;
}

socklen_t peer_tls_address_len(const struct sockaddr_storage *a)
{
    return a->ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
}

/* An IPv4 caller on a socket of both families is told as what it is. */
void peer_tls_format_address(const struct sockaddr_storage *a, char *to, size_t size)
{
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)(const void *)a;
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)a;

    to[0] = '\0';
    if (a->ss_family == AF_INET)
        inet_ntop(AF_INET, &v4->sin_addr, to, (socklen_t)size);
    else if (a->ss_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr))
        inet_ntop(AF_INET, &v6->sin6_addr.s6_addr[12], to, (socklen_t)size);
    else if (a->ss_family == AF_INET6)
        inet_ntop(AF_INET6, &v6->sin6_addr, to, (socklen_t)size);
}

static size_t resolve(const char *host, const char *port, struct sockaddr_storage *ret)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *list = NULL;
    size_t count = 0;

    if (getaddrinfo(host, port, &hints, &list) != 0)
        return 0;
    for (const struct addrinfo *i = list; i != NULL && count < PEER_TLS_ADDRESSES_MAX;
         i = i->ai_next) {
        if (i->ai_addrlen > sizeof(ret[0]) ||
            (i->ai_family != AF_INET && i->ai_family != AF_INET6))
            continue;
        memset(&ret[count], 0, sizeof(ret[count]));
        memcpy(&ret[count++], i->ai_addr, i->ai_addrlen);
    }
    freeaddrinfo(list);
    return count;
}

static bool same_host(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
    char x[INET6_ADDRSTRLEN], y[INET6_ADDRSTRLEN];

    peer_tls_format_address(a, x, sizeof(x));
    peer_tls_format_address(b, y, sizeof(y));
    return x[0] != '\0' && strcmp(x, y) == 0;
}

static bool resolves_to(const char *name, const struct sockaddr_storage *from)
{
    struct sockaddr_storage found[PEER_TLS_ADDRESSES_MAX];
    size_t count = resolve(name, NULL, found);

    for (size_t i = 0; i < count; i++) {
        if (same_host(&found[i], from))
            return true;
    }
    return false;
}

/* pattern: "*.example.com", which stands for one label more. */
static bool is_called(const struct sockaddr_storage *from, const char *pattern)
{
    struct sockaddr_storage plain;
    char text[INET6_ADDRSTRLEN], host[NI_MAXHOST];
    const char *dot;

    peer_tls_format_address(from, text, sizeof(text));
    if (!peer_tls_parse_address(text, "0", &plain) ||
        getnameinfo((const struct sockaddr *)&plain, peer_tls_address_len(&plain), host,
                    sizeof(host), NULL, 0, NI_NAMEREQD) != 0)
        return false;
    dot = strchr(host, '.');
    return dot != NULL && strcasecmp(dot, pattern + 1) == 0;
}

static void run(void *arg)
{
    struct peer_tls_lookup *k = arg;

    if (!k->by_names) {
        k->address_count = resolve(k->host, k->port, k->addresses);
        return;
    }
    for (size_t i = 0; i < k->name_count && !k->matches; i++)
        k->matches = strncmp(k->names[i], "*.", 2) == 0 ? is_called(&k->from, k->names[i])
                                                        : resolves_to(k->names[i], &k->from);
}

static void done(void *arg)
{
    struct peer_tls_lookup *k = arg;
    struct peer_tls_link *link = k->link;

    if (link != NULL && k->by_names)
        peer_tls_link_on_names(link, k->matches);
    else if (link != NULL)
        peer_tls_link_on_addresses(link, k->addresses, k->address_count);
    for (size_t i = 0; i < k->name_count; i++)
        free(k->names[i]);
    free(k->host);
    free(k->port);
    free(k);
}

static struct peer_tls_lookup *submit(struct peer_tls *t, struct peer_tls_lookup *k)
{
    loop_submit(t->loop, &(struct loop_job){.run = run, .done = done, .arg = k});
    return k;
}

struct peer_tls_lookup *peer_tls_lookup_addresses(struct peer_tls *t, struct peer_tls_link *l,
                                                  const char *host, const char *port)
{
    struct peer_tls_lookup *k = xcalloc(1, sizeof(*k));

    k->link = l;
    k->host = xstrdup(host);
    k->port = xstrdup(port);
    return submit(t, k);
}

struct peer_tls_lookup *peer_tls_lookup_names(struct peer_tls *t, struct peer_tls_link *l,
                                              char **names, size_t count,
                                              const struct sockaddr_storage *from)
{
    struct peer_tls_lookup *k = xcalloc(1, sizeof(*k));

    k->link = l;
    k->by_names = true;
    k->from = *from;
    for (size_t i = 0; i < count && i < PEER_TLS_NAMES_MAX; i++)
        k->names[k->name_count++] = xstrdup(names[i]);
    return submit(t, k);
}

void peer_tls_lookup_forget(struct peer_tls_lookup *lookup)
{
    if (lookup != NULL)
        lookup->link = NULL;
}
