#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

// Questions and changes that std::filesystem answers by exceptions of its own, or not at all: here
// each failure is an Error with the path and the system's reason.
namespace moegrad {

// True where there is a file or a folder, symbolic links followed; an Error where the system does
// not tell: a folder that may not be searched, a loop of links, a name that is too long.
bool path_exists(const std::filesystem::path& path);
bool folder_exists(const std::filesystem::path& path);

// The folder that holds the file.
std::filesystem::path folder_of(const std::filesystem::path& file);

// Makes the folder, and those that it lies in.
void make_folder(const std::filesystem::path& path);

// A folder for what a command writes at its end: made at once, with those that it lies in. When this
// is destroyed, those of them which it made and in which nothing lies are removed.
class OutputFolder {
 public:
  explicit OutputFolder(std::filesystem::path path);
  ~OutputFolder();
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  void remove_empty() const;

  std::filesystem::path path_;
  std::vector<std::filesystem::path> made_ = {};  // from the innermost to the outermost
};

// What the folder holds, in no order; nothing where there is no folder.
std::vector<std::filesystem::path> files_in(const std::filesystem::path& folder);

// Removes a file or a link, where there is one.
void remove_file(const std::filesystem::path& path);

// Removes the temporary files of write_file_atomic that no process writes any more. What cannot be
// removed stays.
void remove_leftovers(const std::filesystem::path& folder);

// True for the names that a folder's lock and temporary files have: no output may have one.
bool is_reserved(const std::filesystem::path& file);

// True where a FolderLock of some process, this one included, holds the folder.
bool is_in_use(const std::filesystem::path& folder);

// Keeps a folder for one process, and in it for one object, until it is destroyed or the process
// ends, however it ends. An Error that names the process which holds the folder already. What lies
// at the lock's name and is no lock (a second name of a file) loses that name.
class FolderLock {
 public:
  static constexpr std::string_view kName = ".moegrad-lock";

  explicit FolderLock(const std::filesystem::path& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

  // False after the folder was removed, renamed, or taken by another process after that.
  bool held() const;
  // Before results are written: an Error where it is not held.
  void require_held() const;

 private:
  std::filesystem::path file_;
  int descriptor_ = -1;
};

}  // namespace moegrad
