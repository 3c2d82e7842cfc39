/*
 * What the commands print, in the format that was asked for. json and protobuf come from the
 * message alone (print_encoded); simple, fields and tables are written by hand, one file per group.
 */
#ifndef CONCLAVE_CTL_PRINT_H
#define CONCLAVE_CTL_PRINT_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdio.h>
#include "ctl/ctl.h"
#include "lib/proto/etcd/rpc.pb-c.h"

/* true when the format was json or protobuf, and the message has been printed. */
bool print_encoded(const struct ctl *c, const void *message);
/* For what only the simple format has besides these; dies in the words of the format. */
bool print_encoded_or_simple(const struct ctl *c, const void *message);
/* The header alone, for wrappers of etcd's client whose encoding is that of their header. */
void print_header_encoded(const struct ctl *c, const Etcdserverpb__ResponseHeader *header);
/* For what has no table; dies in the words of the format. */
bool print_encoded_or_lines(const struct ctl *c, const void *message);
/* The end of a command that says one line: that line, or the answer encoded. Frees the answer. */
void print_done(const struct ctl *c, void *answer, const char *fmt, ...) PRINTF_LIKE(3, 4);
NORETURN void print_unsupported(const struct ctl *c);
NORETURN void print_marshal_unsupported(const char *go_type);

void print_header_fields(const Etcdserverpb__ResponseHeader *header);
/* "Name" : "quoted" */
void print_quoted_field(const char *prefix, const char *name, const void *data, size_t len);
/* The bytes as they are, or \x66\x6f with --hex; no newline. */
void print_bytes(const struct ctl *c, ProtobufCBinaryData data);
void print_kv_simple(const struct ctl *c, const Mvccpb__KeyValue *kv, bool value_only);
void print_kv_fields(const char *prefix, const Mvccpb__KeyValue *kv);

void print_get(const struct ctl *c, const Etcdserverpb__RangeResponse *r, bool value_only);
void print_put(const struct ctl *c, const Etcdserverpb__PutResponse *r);
void print_delete(const struct ctl *c, const Etcdserverpb__DeleteRangeResponse *r);
void print_txn(const struct ctl *c, const Etcdserverpb__TxnResponse *r);
void print_watch(const struct ctl *c, const Etcdserverpb__WatchResponse *r);

/* A table of `columns` columns in ASCII: headers centred, cells right-aligned. cells: row by row.
 */
void print_table(const char *const *headers, size_t columns, char *const *cells, size_t rows);

#endif
