#include "train/movielens.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <span>
#include <string>
#include <utility>

#include "tensor/parse.h"
#include "train/plain_rows.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;

// Of this task: no other part of a program with the same seed draws these numbers. User u draws from
// the stream kNegativeStream + u.
constexpr std::uint64_t kRatingStream = 0x6d6f7669'00000000U;
constexpr std::uint64_t kNegativeStream = 0x6e656761'00000000U;

constexpr std::string_view kSet = "movielens";
// Where a part begins; the ages are those of GroupLens's later sets.
constexpr std::array<std::int32_t, 6> kAges = {18, 25, 35, 45, 50, 56};
constexpr std::array<std::int32_t, 11> kYears = {1,    1940, 1960, 1970, 1980, 1990,
                                                 1993, 1995, 1996, 1997, 1998};

std::int32_t part_of(std::int32_t value, std::span<const std::int32_t> begins) {
  return static_cast<std::int32_t>(
      std::ranges::count_if(begins, [&](std::int32_t begin) { return begin <= value; }));
}

using Places = std::map<std::string, std::int32_t>;

// Of the values of a set in their order.
Places places_by_value(const std::set<std::string>& values) {
  Places places;
  for (const std::string& value : values) {
    places.emplace(value, static_cast<std::int32_t>(places.size()));
  }
  return places;
}

std::int32_t place_of(const Places& places, const PlainRows& table, std::size_t row,
                      std::size_t cell, std::string_view what) {
  const std::string& value = table.rows[row][cell];
  const auto found = places.find(value);
  if (found == places.end()) table.damaged(row, fmt::format("there is no {} '{}'", what, value));
  return found->second;
}

// The users, or the films: the columns of x for each, and its place by its id.
struct Side {
  std::vector<Field> fields = {};
  Places places = {};
  std::vector<std::vector<std::int32_t>> rows = {};

  void add(const PlainRows& table, std::size_t row, std::vector<std::int32_t> values) {
    const auto place = static_cast<std::int32_t>(rows.size());
    const std::string& id = table.rows[row][0];
    if (!places.emplace(id, place).second) {
      table.damaged(row, fmt::format("'{}' is there twice", id));
    }
    values.insert(values.begin(), place);
    rows.push_back(std::move(values));
  }
};

Side read_users(const fs::path& folder) {
  const PlainRows table =
      read_plain_rows(folder / "ml-100k.user", kSet, '\t',
                      "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token");
  std::set<std::string> names;
  for (const auto& row : table.rows) names.insert(row[3]);
  const Places occupations = places_by_value(names);
  const Places genders = {{"F", 0}, {"M", 1}};
  Side users;
  for (std::size_t i = 0; i < table.rows.size(); ++i) {
    const auto age = parse_number<std::int32_t>(table.rows[i][1], 0, 150);
    if (!age) {
      table.damaged(i, fmt::format("'{}' is no age from 0 to 150", table.rows[i][1]));
    }
    users.add(table, i,
              {part_of(*age, kAges), place_of(genders, table, i, 2, "gender"),
               occupations.at(table.rows[i][3])});
  }
  users.fields = {{.name = "user", .values = std::ssize(users.rows)},
                  {.name = "age", .values = std::ssize(kAges) + 1},
                  {.name = "gender", .values = std::ssize(genders)},
                  {.name = "occupation", .values = std::ssize(occupations)}};
  return users;
}

std::vector<std::string> words_of(std::string_view text) {
  std::vector<std::string> words;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(' ', begin), text.size());
    words.emplace_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return words;
}

Side read_films(const fs::path& folder) {
  const PlainRows table =
      read_plain_rows(folder / "ml-100k.item", kSet, '\t',
                      "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq");
  std::set<std::string> names;
  for (const auto& row : table.rows) {
    for (const std::string& word : words_of(row[3])) names.insert(word);
  }
  const Places genres = places_by_value(names);
  Side films;
  for (std::size_t i = 0; i < table.rows.size(); ++i) {
    const auto year = parse_number<std::int32_t>(table.rows[i][2], 1800, 2200);
    std::vector<std::int32_t> values(1 + genres.size());
    values[0] = part_of(year.value_or(0), kYears);
    for (const std::string& word : words_of(table.rows[i][3])) {
      values[1 + static_cast<std::size_t>(genres.at(word))] = 1;
    }
    films.add(table, i, std::move(values));
  }
  films.fields = {{.name = "film", .values = std::ssize(films.rows)},
                  {.name = "year", .values = std::ssize(kYears) + 1},
                  {.name = "genres", .values = std::ssize(genres), .several = true}};
  return films;
}

struct Rating {
  std::int32_t user = 0;
  std::int32_t film = 0;
  std::int32_t rating = 0;
  std::int32_t other = 0;  // the film that stands in
};

std::vector<Rating> read_ratings(const fs::path& folder, const Side& users, const Side& films) {
  const PlainRows table =
      read_plain_rows(folder / "ml-100k.inter", kSet, '\t',
                      "user_id:token\titem_id:token\trating:float\ttimestamp:float");
  std::vector<Rating> ratings;
  std::set<std::pair<std::int32_t, std::int32_t>> seen;
  for (std::size_t i = 0; i < table.rows.size(); ++i) {
    const auto rating = parse_number<std::int32_t>(table.rows[i][2], 1, 5);
    if (!rating) {
      table.damaged(i, fmt::format("'{}' is no rating from 1 to 5", table.rows[i][2]));
    }
    const Rating r{.user = place_of(users.places, table, i, 0, "user"),
                   .film = place_of(films.places, table, i, 1, "film"),
                   .rating = *rating};
    if (!seen.emplace(r.user, r.film).second) {
      table.damaged(i, fmt::format("user '{}' rates film '{}' a second time", table.rows[i][0],
                                   table.rows[i][1]));
    }
    ratings.push_back(r);
  }
  return ratings;
}

// Sets `other` of all ratings.
void draw_others(std::vector<Rating>& ratings, const Side& users, const Side& films,
                 std::uint64_t seed) {
  std::vector<std::vector<Rating*>> by_user(users.rows.size());
  for (Rating& r : ratings) by_user[static_cast<std::size_t>(r.user)].push_back(&r);
  for (const auto& [id, user] : users.places) {
    const std::vector<Rating*>& own = by_user[static_cast<std::size_t>(user)];
    std::vector<bool> rated(films.rows.size());
    for (const Rating* r : own) rated[static_cast<std::size_t>(r->film)] = true;
    std::vector<std::int32_t> others;
    for (std::size_t film = 0; film < rated.size(); ++film) {
      if (!rated[film]) others.push_back(static_cast<std::int32_t>(film));
    }
    if (others.size() < own.size()) {
      fail(kSet,
           "user '{}' rated {} of {} films: too few are left to stand in for what was not watched. "
           "Run scripts/data movielens again.",
           id, own.size(), rated.size());
    }
    Rng rng{seed, kNegativeStream + static_cast<std::uint64_t>(user), 0};
    const Tensor order = rng.permutation(std::ssize(others));
    for (std::size_t i = 0; i < own.size(); ++i) {
      own[i]->other = others[static_cast<std::size_t>(order.data<std::int32_t>()[i])];
    }
  }
}

Dataset examples_of(const std::vector<Rating>& ratings, const std::vector<std::int32_t>& chosen,
                    const Side& users, const Side& films) {
  const std::int64_t n = 2 * std::ssize(chosen);
  const std::int64_t width = std::ssize(users.rows[0]) + std::ssize(films.rows[0]);
  Dataset data{.x = Tensor::empty({n, width}, DType::i32, Device::cpu),
               .labels = Tensor::empty({n, 2}, DType::i32, Device::cpu)};
  std::int32_t* x = data.x.write<std::int32_t>();
  std::int32_t* label = data.labels.write<std::int32_t>();
  const auto put = [&](std::int32_t user, std::int32_t film, std::int32_t rating,
                       std::int32_t watched) {
    x = std::ranges::copy(users.rows[static_cast<std::size_t>(user)], x).out;
    x = std::ranges::copy(films.rows[static_cast<std::size_t>(film)], x).out;
    *label++ = rating;
    *label++ = watched;
  };
  for (const std::int32_t i : chosen) {
    const Rating& r = ratings[static_cast<std::size_t>(i)];
    put(r.user, r.film, r.rating, 1);
    put(r.user, r.other, -1, 0);
  }
  return data;
}

}  // namespace

Task load_movielens(const TaskOptions& o) {
  const fs::path folder = o.folder / "movielens";
  const Side users = read_users(folder);
  const Side films = read_films(folder);
  std::vector<Rating> ratings = read_ratings(folder, users, films);
  draw_others(ratings, users, films, o.seed);
  const Split split = split_of(std::ssize(ratings), {o.seed, kRatingStream, 0});
  Task task{.targets = {{.name = "rating", .kind = Target::Kind::number, .partial = true},
                        {.name = "watched", .kind = Target::Kind::binary}},
            .train = examples_of(ratings, split.train, users, films),
            .test = examples_of(ratings, split.test, users, films)};
  task.fields = users.fields;
  task.fields.insert(task.fields.end(), films.fields.begin(), films.fields.end());
  return task;
}

}  // namespace moegrad
