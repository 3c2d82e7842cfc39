/*
 * Opens client sockets. What fails is told in the words of etcd's log, which people search for.
 */
#include "supervisor/listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "supervisor/settings.h"

/* the kernel cuts it to net.core.somaxconn, whose default is this */
enum { BACKLOG = 4096 };

bool listener_address(const struct url *u, struct sockaddr_storage *ret, socklen_t *ret_len)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    uint16_t port = htons((uint16_t)strtoul(u->port, NULL, 10));
    const char *host = url_dial_host(u);

    *ret = (struct sockaddr_storage){0};
    if (inet_pton(AF_INET, host, &v4.sin_addr) == 1) {
        v4.sin_port = port;
        memcpy(ret, &v4, sizeof(v4));
        *ret_len = sizeof(v4);
        return true;
    }
    if (inet_pton(AF_INET6, host, &v6.sin6_addr) == 1) {
        v6.sin6_port = port;
        memcpy(ret, &v6, sizeof(v6));
        *ret_len = sizeof(v6);
        return true;
    }
    return false;
}

static bool is_served(const struct sockaddr_un *address)
{
    CLEANUP(closep) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    return fd >= 0 && (connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 ||
                       errno != ECONNREFUSED);
}

/* What a killed one left behind is replaced; etcd removes whatever has the name. */
static int open_local_socket(const char *path, int *ret_fd, const char **ret_step)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    CLEANUP(closep) int fd = -1;
    struct stat st;

    *ret_step = "bind";
    if (*path == '\0' || strlen(path) >= sizeof(address.sun_path))
        return -EINVAL;
    memcpy(address.sun_path, path, strlen(path) + 1);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    if (lstat(path, &st) == 0 && S_ISSOCK(st.st_mode) && !is_served(&address))
        unlink(path);
    if (bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
        return -errno;
    *ret_step = "listen";
    if (listen(fd, BACKLOG) < 0)
        return -errno;
    *ret_fd = fd;
    fd = -1;
    return 0;
}

static void remove_local_socket(const struct listener *l)
{
    struct stat st;

    if (l->path != NULL && lstat(l->path, &st) == 0 && S_ISSOCK(st.st_mode) &&
        st.st_ino == l->inode)
        unlink(l->path); /* it is still ours */
}

static void note_local_socket(struct listener *l, const char *path)
{
    struct stat st;

    l->path = xstrdup(path);
    l->inode = lstat(path, &st) == 0 ? st.st_ino : 0;
}

static int open_socket(const struct url *u, bool reuse_port, int *ret_fd, const char **ret_step)
{
    struct sockaddr_storage address;
    socklen_t len;
    CLEANUP(closep) int fd = -1;
    int one = 1, dual;

    *ret_step = "address";
    if (!listener_address(u, &address, &len))
        return -EINVAL;
    *ret_step = "socket";
    fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    *ret_step = "setsockopt";
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0)
        return -errno;
    if (reuse_port && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)) < 0)
        return -errno;
    if (address.ss_family == AF_INET6) {
        /* [::] is every address of both families, a literal one is itself */
        dual = memcmp(&((struct sockaddr_in6 *)&address)->sin6_addr, &in6addr_any,
                      sizeof(in6addr_any)) == 0;
        if (setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &(int){!dual}, sizeof(int)) < 0)
            return -errno;
    }
    *ret_step = "bind";
    if (bind(fd, (const struct sockaddr *)&address, len) < 0)
        return -errno;
    *ret_step = "listen";
    if (listen(fd, BACKLOG) < 0)
        return -errno;
    *ret_fd = fd;
    fd = -1;
    return 0;
}

/* True: it is open already. One that is for gRPC alone and for HTTP alone is for all. */
static bool join_url(struct listener_set *set, const char *url, const char *mark)
{
    for (size_t i = 0; i < set->count; i++) {
        char *known = set->items[i].url;
        char *plus = strchr(known, '+');

        if (strcmp(plus != NULL ? plus + 1 : known, url) != 0)
            continue;
        if (strcmp(mark, "http+") == 0 && plus != NULL)
            memmove(known, plus + 1, strlen(plus + 1) + 1);
        return true;
    }
    return false;
}

static int open_list(struct listener_set *set, const struct settings *s, const char *name,
                     const char *mark, char **ret_why)
{
    CLEANUP(setting_urls_fini) struct setting_urls urls = settings_urls(s, name);

    for (size_t i = 0; i < urls.count; i++) {
        const struct url *u = &urls.items[i];
        bool local = strncmp(u->scheme, "unix", 4) == 0;
        struct listener *l;
        const char *step;
        int fd = -1, r;

        if (join_url(set, u->text, mark))
            continue;
        r = local ? open_local_socket(u->host, &fd, &step)
                  : open_socket(u, settings_bool(s, "socket-reuse-port"), &fd, &step);
        if (r < 0) {
            CLEANUP(freep) char *what = xstrdup(strerror(-r));

            if (what[0] >= 'A' && what[0] <= 'Z')
                what[0] = (char)(what[0] - 'A' + 'a');
            *ret_why = local ? xasprintf("listen unix %s: %s: %s", u->host, step, what)
                             : xasprintf("listen tcp %s:%s: %s: %s", u->host, u->port, step, what);
            return r;
        }
        set->items = xreallocarray(set->items, set->count + 1, sizeof(*set->items));
        l = &set->items[set->count++];
        *l = (struct listener){.fd = fd, .url = xasprintf("%s%s", mark, u->text)};
        if (local)
            note_local_socket(l, u->host);
    }
    return 0;
}

int listener_set_open(struct listener_set *set, const struct settings *s, char **ret_why)
{
    bool apart = *settings_text(s, "listen-client-http-urls") != '\0';
    int r;

    *set = (struct listener_set){0};
    r = open_list(set, s, "listen-client-urls", apart ? "grpc+" : "", ret_why);
    if (r == 0 && apart)
        r = open_list(set, s, "listen-client-http-urls", "http+", ret_why);
    if (r == 0)
        r = open_list(set, s, "listen-metrics-urls", "metrics+", ret_why);
    if (r < 0)
        listener_set_close(set);
    return r;
}

void listener_set_close(struct listener_set *set)
{
    for (size_t i = 0; i < set->count; i++) {
        close(set->items[i].fd);
        remove_local_socket(&set->items[i]);
        free(set->items[i].path);
        free(set->items[i].url);
    }
    free(set->items);
    *set = (struct listener_set){0};
}
