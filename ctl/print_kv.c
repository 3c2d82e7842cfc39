/* Answers of the KV service and events, as pairs of lines and as "Name" : value lines. */
#include <inttypes.h>
#include "ctl/ctl_text.h"
#include "ctl/print.h"

void print_kv_simple(const struct ctl *c, const Mvccpb__KeyValue *kv, bool value_only)
{
    if (!value_only) {
        print_bytes(c, kv->key);
        putchar('\n');
    }
    print_bytes(c, kv->value);
    putchar('\n');
}

void print_kv_fields(const char *prefix, const Mvccpb__KeyValue *kv)
{
    print_quoted_field(prefix, "Key", kv->key.data, kv->key.len);
    printf("\"%sCreateRevision\" : %" PRId64 "\n", prefix, kv->create_revision);
    printf("\"%sModRevision\" : %" PRId64 "\n", prefix, kv->mod_revision);
    printf("\"%sVersion\" : %" PRId64 "\n", prefix, kv->version);
    print_quoted_field(prefix, "Value", kv->value.data, kv->value.len);
    printf("\"%sLease\" : %" PRId64 "\n", prefix, kv->lease);
}

void print_get(const struct ctl *c, const Etcdserverpb__RangeResponse *r, bool value_only)
{
    if (print_encoded_or_lines(c, r))
        return;
    if (c->format == CTL_FORMAT_FIELDS)
        print_header_fields(r->header);
    for (size_t i = 0; i < r->n_kvs; i++) {
        if (c->format == CTL_FORMAT_FIELDS)
            print_kv_fields("", r->kvs[i]);
        else
            print_kv_simple(c, r->kvs[i], value_only);
    }
    if (c->format == CTL_FORMAT_FIELDS)
        printf("\"More\" : %s\n\"Count\" : %" PRId64 "\n", r->more ? "true" : "false", r->count);
}

void print_put(const struct ctl *c, const Etcdserverpb__PutResponse *r)
{
    if (print_encoded_or_lines(c, r))
        return;
    if (c->format == CTL_FORMAT_FIELDS) {
        print_header_fields(r->header);
        if (r->prev_kv != NULL)
            print_kv_fields("Prev", r->prev_kv);
        return;
    }
    puts("OK");
    if (r->prev_kv != NULL)
        print_kv_simple(c, r->prev_kv, false);
}

void print_delete(const struct ctl *c, const Etcdserverpb__DeleteRangeResponse *r)
{
    if (print_encoded_or_lines(c, r))
        return;
    if (c->format == CTL_FORMAT_FIELDS) {
        print_header_fields(r->header);
        printf("\"Deleted\" : %" PRId64 "\n", r->deleted);
    } else {
        printf("%" PRId64 "\n", r->deleted);
    }
    for (size_t i = 0; i < r->n_prev_kvs; i++) {
        if (c->format == CTL_FORMAT_FIELDS)
            print_kv_fields("Prev", r->prev_kvs[i]);
        else
            print_kv_simple(c, r->prev_kvs[i], false);
    }
}

void print_txn(const struct ctl *c, const Etcdserverpb__TxnResponse *r)
{
    if (print_encoded_or_lines(c, r))
        return;
    if (c->format == CTL_FORMAT_FIELDS) {
        print_header_fields(r->header);
        printf("\"Succeeded\" : %s\n", r->succeeded ? "true" : "false");
    } else {
        puts(r->succeeded ? "SUCCESS" : "FAILURE");
    }
    for (size_t i = 0; i < r->n_responses; i++) {
        const Etcdserverpb__ResponseOp *op = r->responses[i];

        if (c->format == CTL_FORMAT_SIMPLE)
            putchar('\n');
        switch (op->response_case) {
        case ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_RANGE:
            print_get(c, op->response_range, false);
            break;
        case ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_PUT:
            print_put(c, op->response_put);
            break;
        case ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_DELETE_RANGE:
            print_delete(c, op->response_delete_range);
            break;
        default:
            puts("unexpected response");
        }
    }
}

/* The struct of etcd's Go client, which has its own JSON names. */
static void watch_json(const Etcdserverpb__WatchResponse *r)
{
    Etcdserverpb__ResponseHeader none = ETCDSERVERPB__RESPONSE_HEADER__INIT;

    fputs("{\"Header\":", stdout);
    ctl_json_message(stdout, r->header != NULL ? &r->header->base : &none.base);
    fputs(",\"Events\":", stdout);
    for (size_t i = 0; i < r->n_events; i++) {
        putchar(i == 0 ? '[' : ',');
        ctl_json_message(stdout, &r->events[i]->base);
    }
    printf("%s,\"CompactRevision\":%" PRId64 ",\"Canceled\":%s,\"Created\":%s}\n",
           r->n_events > 0             ? "]"
           : r->created || r->canceled ? "null"
                                       : "[]",
           r->compact_revision, r->canceled ? "true" : "false", r->created ? "true" : "false");
}

static void event_fields(const Mvccpb__Event *e)
{
    printf("\"Type\" : %s\n", e->type == MVCCPB__EVENT__EVENT_TYPE__PUT ? "PUT" : "DELETE");
    if (e->prev_kv != NULL)
        print_kv_fields("Prev", e->prev_kv);
    if (e->kv != NULL)
        print_kv_fields("", e->kv);
}

static void event_simple(const struct ctl *c, const Mvccpb__Event *e)
{
    puts(e->type == MVCCPB__EVENT__EVENT_TYPE__PUT ? "PUT" : "DELETE");
    if (e->prev_kv != NULL)
        print_kv_simple(c, e->prev_kv, false);
    if (e->kv != NULL)
        print_kv_simple(c, e->kv, false);
}

void print_watch(const struct ctl *c, const Etcdserverpb__WatchResponse *r)
{
    if (c->format == CTL_FORMAT_JSON) {
        watch_json(r);
    } else if (c->format == CTL_FORMAT_PROTOBUF) {
        print_encoded(c, r);
    } else if (c->format == CTL_FORMAT_TABLE) {
        print_unsupported(c);
    } else {
        if (c->format == CTL_FORMAT_FIELDS)
            print_header_fields(r->header);
        for (size_t i = 0; i < r->n_events; i++) {
            if (c->format == CTL_FORMAT_FIELDS)
                event_fields(r->events[i]);
            else
                event_simple(c, r->events[i]);
        }
    }
    fflush(stdout);
}
