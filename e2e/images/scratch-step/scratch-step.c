// The only file of the scratch image. Its arguments are acts, done in order:
//
//   --argv              print each argument on a line: argv[N]=VALUE
//   --env NAME          print NAME=VALUE, or `NAME is not set`
//   --ids               print uid=N gid=N
//   --cwd               print cwd=PATH
//   --out TEXT          print TEXT
//   --err TEXT          print TEXT on stderr
//   --cat FILE          print the file
//   --append FILE TEXT  add a line to the file, which is made when it is missing
//   --append-env NAME TEXT
//                       the same for the file that the variable names
//   --sleep SECONDS
//   --raise SIGNAL      send the signal (a number) to itself
//   --exit CODE
//
// Any other argument is passed over. Without an act it does --argv.
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char **arg;

static const char *next(void)
{
	if (!arg[1]) {
		fprintf(stderr, "scratch-step: `%s` lacks an argument\n", arg[0]);
		exit(2);
	}
	return *++arg;
}

static FILE *open_or_exit(const char *path, const char *mode)
{
	FILE *file = fopen(path, mode);
	if (!file) {
		fprintf(stderr, "scratch-step: failed to open `%s`: %s\n", path, strerror(errno));
		exit(2);
	}
	return file;
}

static void print_argv(int argc, char **argv)
{
	for (int i = 0; i < argc; i++)
		printf("argv[%d]=%s\n", i, argv[i]);
}

static void cat(const char *path)
{
	char buffer[65536];
	size_t n;
	FILE *file = open_or_exit(path, "r");
	while ((n = fread(buffer, 1, sizeof buffer, file)) > 0)
		fwrite(buffer, 1, n, stdout);
	fclose(file);
}

static void append(const char *path, const char *text)
{
	FILE *file = open_or_exit(path, "a");
	fprintf(file, "%s\n", text);
	if (fclose(file)) {
		fprintf(stderr, "scratch-step: failed to write `%s`: %s\n", path, strerror(errno));
		exit(2);
	}
}

static const char *variable(const char *name)
{
	const char *value = getenv(name);
	if (!value) {
		fprintf(stderr, "scratch-step: `%s` is not set\n", name);
		exit(2);
	}
	return value;
}

int main(int argc, char **argv)
{
	int acts = 0;
	// A reader sees each line when it is written, also through a pipe.
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (arg = argv + (argc > 0); *arg; arg++) {
		acts++;
		if (!strcmp(*arg, "--argv")) {
			print_argv(argc, argv);
		} else if (!strcmp(*arg, "--env")) {
			const char *name = next(), *value = getenv(name);
			if (value)
				printf("%s=%s\n", name, value);
			else
				printf("%s is not set\n", name);
		} else if (!strcmp(*arg, "--ids")) {
			printf("uid=%d gid=%d\n", (int)getuid(), (int)getgid());
		} else if (!strcmp(*arg, "--cwd")) {
			char path[4096];
			printf("cwd=%s\n", getcwd(path, sizeof path) ? path : strerror(errno));
		} else if (!strcmp(*arg, "--out")) {
			printf("%s\n", next());
		} else if (!strcmp(*arg, "--err")) {
			fprintf(stderr, "%s\n", next());
		} else if (!strcmp(*arg, "--cat")) {
			cat(next());
		} else if (!strcmp(*arg, "--append")) {
			const char *path = next();
			append(path, next());
		} else if (!strcmp(*arg, "--append-env")) {
			const char *path = variable(next());
			append(path, next());
		} else if (!strcmp(*arg, "--sleep")) {
			sleep((unsigned)atoi(next()));
		} else if (!strcmp(*arg, "--raise")) {
			raise(atoi(next()));
		} else if (!strcmp(*arg, "--exit")) {
			return atoi(next());
		} else {
			acts--;
		}
	}
	if (!acts)
		print_argv(argc, argv);
	return 0;
}
