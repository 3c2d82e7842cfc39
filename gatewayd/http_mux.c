#include "gatewayd/http_mux.h"

#include <assert.h>
#include <string.h>

#include "config.h"
#include "gatewayd/backend.h"
#include "gatewayd/client_tls.h"
#include "gatewayd/gatewayd.h"
#include "gatewayd/grpc.h"
#include "gatewayd/health.h"
#include "gatewayd/json_gateway.h"
#include "gatewayd/metrics.h"
#include "gatewayd/probe.h"
#include "lib/util/buf.h"

struct bytes http_path_only(struct bytes path)
{
    const uint8_t *q = path.len != 0 ? memchr(path.data, '?', path.len) : NULL;

    return q != NULL ? bytes_of(path.data, (size_t)(q - path.data)) : path;
}

bool http_query_has(struct bytes path, const char *name, const char *want)
{
    struct bytes only = http_path_only(path);
    const uint8_t *pos = path.data + only.len, *end = path.data + path.len;
    size_t name_len = strlen(name);

    while (pos < end) {
        const uint8_t *start = pos + 1, *stop = memchr(start, '&', (size_t)(end - start));
        struct bytes pair, value;

        if (stop == NULL)
            stop = end;
        pair = bytes_of(start, (size_t)(stop - start));
        pos = stop;
        if (pair.len < name_len || memcmp(pair.data, name, name_len) != 0 ||
            (pair.len > name_len && pair.data[name_len] != '='))
            continue;
        value = pair.len > name_len
                    ? bytes_of(pair.data + name_len + 1, pair.len - name_len - 1)
                    : BYTES_EMPTY;
        if (want == NULL || bytes_eq(value, bytes_str(want)))
            return true;
    }
    return false;
}

/* ---- in front of every HTTP answer ---- */

/* True when `item` is an element of the comma list, or the list is "*" or empty. */
static bool list_allows(const char *comma_list, struct bytes item)
{
    if (comma_list[0] == '\0')
        return true;
    for (const char *pos = comma_list; *pos != '\0';) {
        size_t len = strcspn(pos, ",");

        if ((len == 1 && pos[0] == '*') || bytes_eq(bytes_of(pos, len), item))
            return true;
        pos += len + (pos[len] == ',');
    }
    return false;
}

static struct bytes host_without_port(struct bytes authority)
{
    const uint8_t *colon = authority.len != 0 ? memrchr(authority.data, ':', authority.len) : NULL;

    if (authority.len != 0 && authority.data[0] == '[') { /* [v6]:port */
        const uint8_t *close = memchr(authority.data, ']', authority.len);

        return close != NULL ? bytes_of(authority.data + 1, (size_t)(close - authority.data - 1))
                             : authority;
    }
    return colon != NULL ? bytes_of(authority.data, (size_t)(colon - authority.data)) : authority;
}

/* CVE-2018-5702: a page in a browser must not reach us under a name that is not ours. */
static bool allowed_host(const struct gatewayd *gw, const struct http_req *req)
{
    return bytes_eq(http_req_scheme(req), BYTES_LIT("https")) ||
           list_allows(gw->conf->host_whitelist, host_without_port(http_req_authority(req)));
}

static bool refuse_host(const struct gatewayd *gw, struct http_req *req)
{
    struct bytes host = host_without_port(http_req_authority(req));
    CLEANUP(buf_fini) struct buf text = BUF_INIT;

    if (allowed_host(gw, req))
        return false;
    buf_appendf(&text,
                "\netcd received your request, but the Host header was unrecognized.\n\n"
                "To fix this, choose one of the following options:\n"
                "- Enable TLS, then any HTTPS request will be allowed.\n"
                "- Add the hostname you want to use to the whitelist in settings.\n"
                "  - e.g. etcd --host-whitelist \"%.*s\"\n\n"
                "This requirement has been added to help prevent \"DNS Rebinding\" attacks "
                "(CVE-2018-5702).\n",
                (int)host.len, host.data);
    http_respond_text(req, 421, NULL, buf_bytes(&text));
    return true;
}

enum { HEADERS_MAX = 5, EXTRA_HEADERS_MAX = 2 };

/* What every answer has, then the extra ones. */
static size_t make_headers(struct http_req *req, const struct gatewayd *gw, int status,
                           const char *type, const struct http_header *extra, size_t extra_count,
                           struct http_header headers[HEADERS_MAX + EXTRA_HEADERS_MAX])
{
    struct bytes origin = http_req_header(req, "origin");
    bool any = strcmp(gw->conf->cors, "*") == 0 || gw->conf->cors[0] == '\0';
    size_t n = 0;

    assert(extra_count <= EXTRA_HEADERS_MAX);
    headers[n++] = (struct http_header){BYTES_LIT("content-type"), bytes_str(type)};
    if (status >= 400)
        headers[n++] = HTTP_HEADER("x-content-type-options", "nosniff");
    if (any || (origin.data != NULL && list_allows(gw->conf->cors, origin))) {
        headers[n++] =
            HTTP_HEADER("access-control-allow-methods", "POST, GET, OPTIONS, PUT, DELETE");
        headers[n++] = (struct http_header){BYTES_LIT("access-control-allow-origin"),
                                            any ? BYTES_LIT("*") : origin};
        headers[n++] =
            HTTP_HEADER("access-control-allow-headers", "accept, content-type, authorization");
    }
    for (size_t i = 0; i < extra_count; i++)
        headers[n++] = extra[i];
    return n;
}

void http_mux_respond_with(struct http_req *req, const struct gatewayd *gw, int status,
                           const char *type, const struct http_header *extra, size_t extra_count,
                           struct bytes body)
{
    struct http_header headers[HEADERS_MAX + EXTRA_HEADERS_MAX];
    size_t n = make_headers(req, gw, status, type, extra, extra_count, headers);

    http_respond(req, &(struct http_response){.status = status,
                                              .headers = headers,
                                              .header_count = n,
                                              .body = &body,
                                              .body_count = body.len != 0});
}

void http_mux_begin(struct http_req *req, const struct gatewayd *gw, int status, const char *type,
                    const struct http_header *extra, size_t extra_count)
{
    struct http_header headers[HEADERS_MAX + EXTRA_HEADERS_MAX];
    size_t n = make_headers(req, gw, status, type, extra, extra_count, headers);

    http_respond_begin(req, status, headers, n);
}

void http_mux_respond(struct http_req *req, const struct gatewayd *gw, int status,
                      const char *type, struct bytes body)
{
    static const struct http_header allow = HTTP_HEADER("allow", "GET");

    http_mux_respond_with(req, gw, status, type, &allow, status == 405, body);
}

static void respond_text(struct http_req *req, const struct gatewayd *gw, int status,
                         struct bytes body)
{
    http_mux_respond(req, gw, status, "text/plain; charset=utf-8", body);
}

/* ---- routes ---- */

static void serve_version(struct gatewayd *gw, struct http_req *req)
{
    http_mux_respond(req, gw, 200, "application/json",
                     BYTES_LIT("{\"etcdserver\":\"" ETCD_API_VERSION "\",\"etcdcluster\":\""
                               ETCD_CLUSTER_VERSION "\",\"storage\":\"" ETCD_CLUSTER_VERSION "\"}"));
}

struct route {
    const char *path;
    bool below;            /* also path + "/..." */
    bool on_metrics_port;
    void (*serve)(struct gatewayd *gw, struct http_req *req);
};

static const struct route routes[] = {
    {"/version", false, false, serve_version},
    {"/health", false, true, health_serve},
    {"/livez", true, true, health_serve_livez},
    {"/readyz", true, true, health_serve_readyz},
    {"/metrics", false, true, metrics_serve},
};

static const struct route *find_route(struct bytes path, bool metrics_port)
{
    for (size_t i = 0; i < ARRAY_LEN(routes); i++) {
        size_t len = strlen(routes[i].path);

        if (metrics_port && !routes[i].on_metrics_port)
            continue;
        if (path.len < len || memcmp(path.data, routes[i].path, len) != 0)
            continue;
        if (path.len == len || (routes[i].below && path.data[len] == '/'))
            return &routes[i];
    }
    return NULL;
}

static void serve_http(struct gatewayd *gw, struct http_req *req, bool metrics_port)
{
    const struct route *route;
    struct bytes method = http_req_method(req);

    if (!metrics_port && refuse_host(gw, req))
        return;
    if (bytes_eq(method, BYTES_LIT("OPTIONS"))) {
        respond_text(req, gw, 200, BYTES_EMPTY);
        return;
    }
    if (!metrics_port && json_gateway_is_request(gw, req)) {
        json_gateway_on_request(gw, req);
        return;
    }
    route = find_route(http_path_only(http_req_path(req)), metrics_port);
    if (route == NULL)
        respond_text(req, gw, 404, BYTES_LIT("404 page not found\n"));
    else if (!bytes_eq(method, BYTES_LIT("GET")) && !bytes_eq(method, BYTES_LIT("HEAD")))
        respond_text(req, gw, 405, BYTES_LIT("Method Not Allowed\n"));
    else
        route->serve(gw, req);
}

/* ---- handler tables ---- */

enum { HTTP_BODY_BYTES_MAX = 1 << 20 }; /* no endpoint here reads a body */

static bool is_grpc(const struct http_req *req)
{
    return http_req_tag(req) != HTTP_MUX_HTTP_ONLY && grpc_is_request(req);
}

static bool is_json(const struct gatewayd *gw, const struct http_req *req)
{
    return http_req_tag(req) != HTTP_MUX_GRPC_ONLY && json_gateway_is_request(gw, req);
}

/* As grpc-go answers what is not gRPC; HTTP/1.1 is not even understood there. */
static void refuse_http(struct http_req *req)
{
    struct bytes type = http_req_header(req, "content-type");
    CLEANUP(buf_fini) struct buf text = BUF_INIT;

    if (http_req_version(req) != HTTP_VERSION_2) {
        http_req_reset(req, HTTP_RESET_PROTOCOL_ERROR);
        return;
    }
    buf_appendf(&text, "invalid gRPC request content-type \"%.*s\"", (int)type.len,
                type.len != 0 ? (const char *)type.data : "");
    http_respond(req, &(struct http_response){
                          .status = 415,
                          .headers = (const struct http_header[]){
                              HTTP_HEADER("content-type", "application/grpc"),
                              HTTP_HEADER("grpc-status", "3"),
                              {BYTES_LIT("grpc-message"), buf_bytes(&text)}},
                          .header_count = 3});
}

static enum http_body_mode on_headers(void *user, struct http_req *req, size_t *body_bytes_max)
{
    struct gatewayd *gw = user;

    *body_bytes_max = HTTP_BODY_BYTES_MAX;
    if (is_json(gw, req))
        return allowed_host(gw, req) ? json_gateway_on_headers(gw, req, body_bytes_max)
                                     : HTTP_BODY_BUFFER;
    if (!is_grpc(req))
        return HTTP_BODY_BUFFER;
    *body_bytes_max = grpc_body_limit(gw);
    return grpc_on_headers(gw->grpc, req);
}

/* Only streams in both directions come this way. */
static void on_data(void *user, struct http_req *req, struct bytes data)
{
    struct gatewayd *gw = user;

    if (is_json(gw, req))
        json_gateway_on_data(gw, req, data);
    else
        grpc_on_data(gw->grpc, req, data);
}

static void on_end(void *user, struct http_req *req)
{
    struct gatewayd *gw = user;

    if (is_json(gw, req))
        json_gateway_on_end(gw, req);
    else
        grpc_on_end(gw->grpc, req);
}

static void on_request(void *user, struct http_req *req)
{
    struct gatewayd *gw = user;

    if (is_grpc(req))
        grpc_on_request(gw->grpc, req);
    else if (http_req_tag(req) == HTTP_MUX_GRPC_ONLY)
        refuse_http(req);
    else
        serve_http(gw, req, false);
}

static void on_too_large(void *user, struct http_req *req)
{
    struct gatewayd *gw = user;

    if (is_grpc(req))
        grpc_on_too_large(gw->grpc, req);
    else if (is_json(gw, req))
        json_gateway_on_too_large(gw, req);
    else
        respond_text(req, gw, 413, BYTES_LIT("Request Entity Too Large\n"));
}

static void on_drained(void *user, struct http_req *req)
{
    struct gatewayd *gw = user;

    if (is_grpc(req) || is_json(gw, req))
        grpc_on_drained(gw->grpc, req);
}

static void on_closed(void *user, struct http_req *req)
{
    struct gatewayd *gw = user;

    if (is_grpc(req) || is_json(gw, req))
        grpc_on_closed(gw->grpc, req);
    else
        probe_on_closed(req);
}

static void on_metrics_request(void *user, struct http_req *req)
{
    serve_http(user, req, true);
}

static enum http_body_mode on_metrics_headers(void *user, struct http_req *req,
                                              size_t *body_bytes_max)
{
    *body_bytes_max = HTTP_BODY_BYTES_MAX;
    return HTTP_BODY_BUFFER;
}

static void on_metrics_closed(void *user, struct http_req *req)
{
    probe_on_closed(req);
}

static void on_rejected(void *user, const char *peer, const char *why)
{
    client_tls_rejected(user, peer, why);
}

const struct http_handler http_mux_client = {
    .on_headers = on_headers,
    .on_request = on_request,
    .on_too_large = on_too_large,
    .on_data = on_data,
    .on_end = on_end,
    .on_drained = on_drained,
    .on_closed = on_closed,
    .on_rejected = on_rejected,
};

const struct http_handler http_mux_metrics = {
    .on_headers = on_metrics_headers,
    .on_request = on_metrics_request,
    .on_closed = on_metrics_closed,
    .on_rejected = on_rejected,
};
