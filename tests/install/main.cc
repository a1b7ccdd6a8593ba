#include <moegrad/moegrad.h>

#include <cstdio>

int main() { std::puts("moegrad is installed"); }
