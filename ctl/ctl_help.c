/*
 * Help pages and shell completion, made from the command tables. The pages keep etcdctl's shape:
 * NAME, USAGE, DESCRIPTION, OPTIONS, GLOBAL OPTIONS, with tabs up to columns of eight.
 */
#include <stdlib.h>
#include <string.h>
#include "ctl/ctl_flags.h"
#include "lib/util/buf.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"

/* ---- two columns, the first padded with tabs ---- */

struct rows {
    struct row {
        char *left;
        const char *right;
    } items[96];
    size_t count;
};

static void rows_add(struct rows *rows, char *left, const char *right)
{
    if (rows->count < ARRAY_LEN(rows->items))
        rows->items[rows->count++] = (struct row){left, right};
    else
        free(left);
}

static int row_cmp(const void *a, const void *b)
{
    return strcmp(((const struct row *)a)->left, ((const struct row *)b)->left);
}

static void rows_print(FILE *out, struct rows *rows, const char *indent)
{
    size_t width = 0;

    for (size_t i = 0; i < rows->count; i++)
        width = MAX(width, strlen(rows->items[i].left));
    width = (width / 8 + 1) * 8;
    for (size_t i = 0; i < rows->count; i++) {
        size_t at = strlen(rows->items[i].left) / 8 * 8;

        fprintf(out, "%s%s", indent, rows->items[i].left);
        for (; at < width; at += 8)
            putc('\t', out);
        fprintf(out, "%s\n", rows->items[i].right);
        free(rows->items[i].left);
    }
    rows->count = 0;
}

static char *command_name(const struct ctl_command *command)
{
    const char *name;
    size_t len = ctl_command_name(command, &name);

    return xstrndup(name, len);
}

/* ---- flags ---- */

struct flag_ref {
    const struct ctl_flag *flag;
};

static int flag_cmp(const void *a, const void *b)
{
    return strcmp(((const struct flag_ref *)a)->flag->name,
                  ((const struct flag_ref *)b)->flag->name);
}

static void flags_print(FILE *out, const struct ctl_flag *const *lists, size_t list_count,
                        int inherited)
{
    struct flag_ref refs[CTL_FLAGS_MAX];
    size_t count = 0;
    struct rows rows = {.count = 0};

    for (size_t i = 0; i < list_count; i++)
        for (const struct ctl_flag *f = lists[i]; f != NULL && f->name != NULL; f++)
            if (!f->hidden && count < CTL_FLAGS_MAX &&
                (inherited < 0 || f->inherited == (inherited != 0) || (inherited != 0 && i > 0)))
                refs[count++].flag = f;
    qsort(refs, count, sizeof(refs[0]), flag_cmp);
    for (size_t i = 0; i < count; i++) {
        const struct ctl_flag *f = refs[i].flag;
        char letter[5] = "    ";
        char *value;

        if (f->shorthand != '\0')
            snprintf(letter, sizeof(letter), "-%c, ", f->shorthand);
        if (f->type == CTL_FLAG_BOOL)
            value = xasprintf("[=%s]", f->initial);
        else if (f->type == CTL_FLAG_STRING)
            value = xasprintf("=\"%s\"", f->initial);
        else if (f->type == CTL_FLAG_LIST)
            value = xasprintf("=[%s]", f->initial);
        else
            value = xasprintf("=%s", f->initial);
        rows_add(&rows, xasprintf("  %s--%s%s", letter, f->name, value), f->usage);
        free(value);
    }
    rows_print(out, &rows, "");
}

/* ---- pages ---- */

static void commands_add(struct rows *rows, const struct ctl_command *parent, const char *prefix)
{
    for (size_t i = 0; parent->children != NULL && parent->children[i] != NULL; i++) {
        const struct ctl_command *child = parent->children[i];
        char *name = command_name(child), *full;

        full = xasprintf("%s%s%s", prefix, *prefix != '\0' ? " " : "", name);
        free(name);
        if (child->children != NULL)
            commands_add(rows, child, full);
        else if (!child->hidden)
            rows_add(rows, xstrdup(full), child->summary);
        free(full);
    }
}

static void indented_print(FILE *out, const char *text)
{
    putc('\t', out);
    for (; *text != '\0'; text++) {
        putc(*text, out);
        if (*text == '\n')
            putc('\t', out);
    }
    putc('\n', out);
}

static char *path_join(const struct ctl_command *const *path, size_t depth)
{
    struct buf text = BUF_INIT;

    for (size_t i = 0; i < depth; i++) {
        const char *name;
        size_t len = ctl_command_name(path[i], &name);

        buf_appendf(&text, "%s%.*s", i > 0 ? " " : "", (int)len, name);
    }
    buf_append_u8(&text, 0);
    return (char *)text.data;
}

void ctl_help_print(FILE *out, const struct ctl_help_conf *conf,
                    const struct ctl_command *const *path, size_t depth)
{
    const struct ctl_command *command = depth > 0 ? path[depth - 1] : conf->root;
    CLEANUP(freep) char *full = path_join(path, depth);
    CLEANUP(freep)
    char *help_text = xasprintf("help for %.*s", (int)strcspn(command->use, " "), command->use);
    const struct ctl_flag help[] = {{.name = "help",
                                     .type = CTL_FLAG_BOOL,
                                     .initial = "false",
                                     .usage = help_text,
                                     .shorthand = 'h'},
                                    {.name = NULL}};
    struct rows rows = {.count = 0};

    if (depth == 0) {
        fprintf(out, "NAME:\n\t%s - %s\n\nUSAGE:\n\t%s [flags]\n\n", conf->program,
                command->summary, conf->program);
        fprintf(out, "VERSION:\n\t%s\n\n", conf->version);
    } else {
        const char *rest = command->use + strcspn(command->use, " ");

        fprintf(out, "NAME:\n\t%s - %s\n\nUSAGE:\n\t%s %s%s [flags]\n\n", full, command->summary,
                conf->program, full, rest);
    }
    if (command->children != NULL) {
        fprintf(out, "API VERSION:\n\t%s\n\n\nCOMMANDS:\n", conf->api_version);
        commands_add(&rows, command, "");
        qsort(rows.items, rows.count, sizeof(rows.items[0]), row_cmp);
        rows_print(out, &rows, "\t");
        putc('\n', out);
    }
    if (command->description != NULL) {
        fputs("DESCRIPTION:\n", out);
        indented_print(out, command->description);
        putc('\n', out);
    }
    fputs("OPTIONS:\n", out);
    if (depth == 0) {
        flags_print(out, (const struct ctl_flag *const[]){help, conf->globals}, 2, -1);
    } else {
        flags_print(out, (const struct ctl_flag *const[]){help, command->flags}, 2,
                    command->children != NULL ? -1 : 0);
        fputs("\nGLOBAL OPTIONS:\n", out);
        flags_print(out,
                    (const struct ctl_flag *const[]){
                        command->children != NULL ? NULL : command->flags, conf->globals},
                    2, 1);
    }
    putc('\n', out);
}

/* ---- completion: the scripts ask the program itself ---- */

static void complete_flags(FILE *out, const struct ctl_flag *flags, bool descriptions,
                           const char *word)
{
    for (; flags != NULL && flags->name != NULL; flags++)
        if (!flags->hidden && strncmp(flags->name, word + 2, strlen(word + 2)) == 0)
            fprintf(out, "--%s%s%s%s\n", flags->name, flags->type == CTL_FLAG_BOOL ? "" : "=",
                    descriptions ? "\t" : "", descriptions ? flags->usage : "");
}

void ctl_help_complete(FILE *out, const struct ctl_help_conf *conf, bool descriptions,
                       const char *const *argv, size_t argc)
{
    const struct ctl_command *command = conf->root;
    const char *word = argc > 0 ? argv[argc - 1] : "";

    for (size_t i = 0; i + 1 < argc; i++) {
        const struct ctl_command *child =
            argv[i][0] == '-' ? NULL : ctl_command_find(command, argv[i]);

        if (strcmp(argv[i], "--") == 0)
            return;
        if (child != NULL)
            command = child;
    }
    if (word[0] == '-') {
        if (strncmp(word, "--", MIN(strlen(word), (size_t)2)) != 0)
            return;
        if (word[1] == '\0')
            word = "--";
        complete_flags(out, command->flags, descriptions, word);
        complete_flags(out, conf->globals, descriptions, word);
        if (strncmp("help", word + 2, strlen(word + 2)) == 0)
            fputs(descriptions ? "--help\tshow help\n" : "--help\n", out);
        return;
    }
    for (size_t i = 0; command->children != NULL && command->children[i] != NULL; i++) {
        const struct ctl_command *child = command->children[i];
        const char *name;
        size_t len = ctl_command_name(child, &name);

        if (!child->hidden && strlen(word) <= len && memcmp(name, word, strlen(word)) == 0)
            fprintf(out, "%.*s%s%s\n", (int)len, name, descriptions ? "\t" : "",
                    descriptions ? child->summary : "");
    }
}

static const char *complete_word(bool descriptions)
{
    return descriptions ? "__complete" : "__completeNoDesc";
}

void ctl_help_completion_bash(FILE *out, const struct ctl_help_conf *conf, bool descriptions)
{
    const char *p = conf->program, *complete = complete_word(descriptions);

    fprintf(out,
            "# bash completion for %s\n"
            "_%s()\n"
            "{\n"
            "    local words candidates line IFS=$'\\n'\n"
            "    words=(\"${COMP_WORDS[@]:1:COMP_CWORD}\")\n"
            "    candidates=$(\"${COMP_WORDS[0]}\" %s \"${words[@]}\" 2>/dev/null)\n"
            "    COMPREPLY=()\n"
            "    for line in $candidates; do COMPREPLY+=(\"${line%%%%$'\\t'*}\"); done\n"
            "    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]]; then compopt -o "
            "nospace; fi\n"
            "}\n"
            "complete -o default -F _%s %s\n",
            p, p, complete, p, p);
}

void ctl_help_completion_zsh(FILE *out, const struct ctl_help_conf *conf, bool descriptions)
{
    const char *p = conf->program, *complete = complete_word(descriptions);

    fprintf(out,
            "#compdef %s\n"
            "_%s()\n"
            "{\n"
            "    local -a lines plain valued\n"
            "    local line\n"
            "    lines=(\"${(@f)$(${words[1]} %s \"${(@)words[2,CURRENT]}\" 2>/dev/null)}\")\n"
            "    for line in $lines; do\n"
            "        [[ -n $line ]] || continue\n"
            "        if [[ ${line%%%%$'\\t'*} == *= ]]; then\n"
            "            valued+=(\"${line%%%%$'\\t'*}:${line#*$'\\t'}\")\n"
            "        else\n"
            "            plain+=(\"${line%%%%$'\\t'*}:${line#*$'\\t'}\")\n"
            "        fi\n"
            "    done\n"
            "    (( $#plain || $#valued )) || { _files; return }\n"
            "    _describe -t commands %s plain -- valued -S ''\n"
            "}\n"
            "if [ \"$funcstack[1]\" = \"_%s\" ]; then _%s; else compdef _%s %s; fi\n",
            p, p, complete, p, p, p, p, p);
}

void ctl_help_completion_fish(FILE *out, const struct ctl_help_conf *conf, bool descriptions)
{
    const char *p = conf->program, *complete = complete_word(descriptions);

    fprintf(out,
            "# fish completion for %s\n"
            "function __%s_complete\n"
            "    set -l words (commandline -opc) (commandline -ct)\n"
            "    $words[1] %s $words[2..-1] 2>/dev/null\n"
            "end\n"
            "complete -c %s -a '(__%s_complete)'\n",
            p, p, complete, p, p);
}
