// How the program begins and ends, whatever its commands do.
#pragma once

#include <cstdio>
#include <exception>
#include <filesystem>
#include <functional>
#include <new>
#include <system_error>

#include <fcntl.h>
#include <unistd.h>

#include "tensor/error.h"
#include "tensor/put.h"

namespace moegrad {

// Exit codes of every command; an interrupted one returns 128 + the number of the signal.
inline constexpr int kOk = 0;
inline constexpr int kCheckFailed = 1;
inline constexpr int kUserMistake = 2;

// Where standard input, output or error is closed, the next file that is opened would take its
// place, and get the text. They are opened, for reading: what is written to them is still lost.
inline void open_standard_streams() {
  int descriptor = 0;
  do {
    descriptor = ::open("/dev/null", O_RDONLY);
  } while (descriptor >= 0 && descriptor <= STDERR_FILENO);
  if (descriptor > STDERR_FILENO) ::close(descriptor);
}

// The exit code of a command; an exception is told on `messages`.
inline int outcome_of(const std::function<int()>& command, std::FILE* messages = stderr) {
  try {
    return command();
  } catch (const Error& error) {
    put(messages, "moegrad: {}\n", error.what());
  } catch (const std::bad_alloc&) {
    put(messages, "moegrad: [memory] not enough memory. Choose smaller sizes.\n");
  } catch (const std::filesystem::filesystem_error& error) {
    put(messages, "moegrad: [files] '{}': {}. Check the path and its permissions.\n",
        shown(error.path1().string()), error.code().message());
  } catch (const std::exception& error) {
    put(messages, "moegrad: [internal] {}. This is a fault of moegrad: please report it.\n",
        shown(error.what()));
  } catch (...) {
    put(messages, "moegrad: [internal] unknown. This is a fault of moegrad: please report it.\n");
  }
  return kUserMistake;
}

// `code`, unless a text could not be written and nothing else says that the command failed.
inline int code_with_lost_text(int code, std::FILE* messages = stderr) {
  if (lost_text == 0) return code;
  put(messages,
      "moegrad: [output] text for standard output or standard error could not be written: {}. "
      "Free some space, or send the text elsewhere.\n",
      std::generic_category().message(lost_text));
  return code == kOk ? kUserMistake : code;
}

}  // namespace moegrad
