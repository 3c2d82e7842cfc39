/* See ctl_discovery.h. The resolver is the C library's. */
#include "ctl/ctl_discovery.h"

#include <arpa/nameser.h>
#include <netinet/in.h>
#include <resolv.h>
#include <stdio.h>
#include <string.h>
#include "lib/util/buf.h"
#include "lib/util/xmalloc.h"

enum { ANSWER_BYTES = 16 * 1024 };

/* Appends "scheme://host:port" of each record; returns how many. */
static size_t lookup(struct buf *out, const char *scheme, const char *label, const char *domain)
{
    CLEANUP(freep) uint8_t *answer = xmalloc(ANSWER_BYTES);
    CLEANUP(freep) char *name = xasprintf("%s._tcp.%s", label, domain);
    int len = res_query(name, ns_c_in, ns_t_srv, answer, ANSWER_BYTES);
    ns_msg message;
    size_t found = 0;

    if (len < 0 || ns_initparse(answer, MIN(len, (int)ANSWER_BYTES), &message) != 0)
        return 0;
    for (int i = 0; i < ns_msg_count(message, ns_s_an); i++) {
        ns_rr rr;
        char host[NS_MAXDNAME];
        const uint8_t *data;

        if (ns_parserr(&message, ns_s_an, i, &rr) != 0 || ns_rr_type(rr) != ns_t_srv ||
            ns_rr_rdlen(rr) < 7)
            continue;
        data = ns_rr_rdata(rr);
        if (ns_name_uncompress(ns_msg_base(message), ns_msg_end(message), data + 6, host,
                               sizeof(host)) < 0)
            continue;
        buf_appendf(out, "%s%s://%s:%u", out->len > 0 ? "," : "", scheme, host,
                    (unsigned int)ns_get16(data + 4));
        found++;
    }
    return found;
}

char *ctl_discover_endpoints(const char *domain, const char *service, bool insecure)
{
    struct buf found = BUF_INIT, plain CLEANUP(buf_fini) = BUF_INIT;
    CLEANUP(freep) char *suffix = *service != '\0' ? xasprintf("-%s", service) : xstrdup("");
    CLEANUP(freep) char *secure_label = xasprintf("_etcd-client-ssl%s", suffix);
    CLEANUP(freep) char *plain_label = xasprintf("_etcd-client%s", suffix);

    lookup(&found, "https", secure_label, domain);
    lookup(&plain, "http", plain_label, domain);
    if (plain.len > 0 && !insecure) {
        buf_append_u8(&plain, 0);
        for (char *next, *p = (char *)plain.data; *p != '\0'; p = next) {
            size_t len = strcspn(p, ",");

            fprintf(stderr, "ignoring discovered insecure endpoint \"%.*s\"\n", (int)len, p);
            next = p + len + (p[len] == ',');
        }
    } else if (plain.len > 0) {
        buf_appendf(&found, "%s%.*s", found.len > 0 ? "," : "", (int)plain.len, plain.data);
    }
    if (found.len == 0) {
        buf_fini(&found);
        return NULL;
    }
    buf_append_u8(&found, 0);
    return (char *)found.data;
}
