/* The parts of output that every group shares. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include "ctl/ctl_text.h"
#include "ctl/print.h"
#include "lib/util/buf.h"
#include "lib/util/xmalloc.h"

bool print_encoded(const struct ctl *c, const void *message)
{
    const ProtobufCMessage *m = message;

    if (c->format == CTL_FORMAT_JSON) {
        ctl_json_message(stdout, m);
        putchar('\n');
        return true;
    }
    if (c->format == CTL_FORMAT_PROTOBUF) {
        size_t size = protobuf_c_message_get_packed_size(m);
        CLEANUP(freep) uint8_t *data = xmalloc(size + 1);

        protobuf_c_message_pack(m, data);
        fwrite(data, 1, size, stdout);
        return true;
    }
    return false;
}

void print_header_encoded(const struct ctl *c, const Etcdserverpb__ResponseHeader *header)
{
    if (header != NULL)
        print_encoded(c, header);
}

void print_unsupported(const struct ctl *c)
{
    ctl_die(CTL_EXIT_BAD_FEATURE, "%s not supported as output format",
            c->format == CTL_FORMAT_TABLE ? "table" : "fields");
}

void print_marshal_unsupported(const char *go_type)
{
    ctl_die(CTL_EXIT_BAD_FEATURE, "marshal unsupported for type %s", go_type);
}

bool print_encoded_or_simple(const struct ctl *c, const void *message)
{
    if (print_encoded(c, message))
        return true;
    if (c->format != CTL_FORMAT_SIMPLE)
        print_unsupported(c);
    return false;
}

bool print_encoded_or_lines(const struct ctl *c, const void *message)
{
    if (print_encoded(c, message))
        return true;
    if (c->format == CTL_FORMAT_TABLE)
        print_unsupported(c);
    return false;
}

void print_done(const struct ctl *c, void *answer, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    if (!print_encoded_or_simple(c, answer)) {
        vprintf(fmt, args);
        putchar('\n');
    }
    va_end(args);
    ctl_answer_free(answer);
}

void print_header_fields(const Etcdserverpb__ResponseHeader *header)
{
    Etcdserverpb__ResponseHeader none = ETCDSERVERPB__RESPONSE_HEADER__INIT;

    if (header == NULL)
        header = &none;
    printf("\"ClusterID\" : %" PRIu64 "\n", header->cluster_id);
    printf("\"MemberID\" : %" PRIu64 "\n", header->member_id);
    printf("\"Revision\" : %" PRId64 "\n", header->revision);
    printf("\"RaftTerm\" : %" PRIu64 "\n", header->raft_term);
}

void print_quoted_field(const char *prefix, const char *name, const void *data, size_t len)
{
    struct buf text CLEANUP(buf_fini) = BUF_INIT;

    ctl_text_quote(&text, data, len);
    printf("\"%s%s\" : ", prefix, name);
    fwrite(text.data, 1, text.len, stdout);
    putchar('\n');
}

void print_bytes(const struct ctl *c, ProtobufCBinaryData data)
{
    if (c->hex)
        ctl_text_hex(stdout, data.data, data.len);
    else if (data.len > 0)
        fwrite(data.data, 1, data.len, stdout);
}

/* ---- tables ---- */

static void table_rule(const size_t *widths, size_t columns)
{
    for (size_t i = 0; i < columns; i++) {
        putchar('+');
        for (size_t j = 0; j < widths[i] + 2; j++)
            putchar('-');
    }
    puts("+");
}

static void spaces(size_t count)
{
    while (count-- > 0)
        putchar(' ');
}

void print_table(const char *const *headers, size_t columns, char *const *cells, size_t rows)
{
    size_t *widths = xcalloc(columns, sizeof(*widths));

    for (size_t i = 0; i < columns; i++) {
        widths[i] = strlen(headers[i]);
        for (size_t j = 0; j < rows; j++)
            widths[i] = MAX(widths[i], strlen(cells[j * columns + i]));
    }
    table_rule(widths, columns);
    for (size_t i = 0; i < columns; i++) {
        size_t gap = widths[i] - strlen(headers[i]);

        fputs("| ", stdout);
        spaces(gap / 2);
        fputs(headers[i], stdout);
        spaces(gap - gap / 2 + 1);
    }
    puts("|");
    table_rule(widths, columns);
    for (size_t j = 0; j < rows; j++) {
        for (size_t i = 0; i < columns; i++) {
            fputs("| ", stdout);
            spaces(widths[i] - strlen(cells[j * columns + i]));
            printf("%s ", cells[j * columns + i]);
        }
        puts("|");
    }
    if (rows > 0)
        table_rule(widths, columns);
    free(widths);
}
